/* The one function of bcryptprimitives.dll that Rust's library calls, for a Wine that lacks this library (before 9);
 * every Windows since Vista has it. */

#include <stddef.h>
#include <stdint.h>

/* advapi32's, by its exported name. */
__declspec(dllimport) unsigned char __stdcall SystemFunction036(void *bytes, uint32_t count);

__declspec(dllexport) int ProcessPrng(unsigned char *bytes, size_t count) {
    return SystemFunction036(bytes, (uint32_t)count);
}
