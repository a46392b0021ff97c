/* The C interface of Imagic Edit.
 *
 * Handles are opaque, made by _new or _submit and ended by _free. All calls on a handle may come from any
 * thread, several at once; only _free must be the last. Nothing of ours ever calls into the host or waits for the
 * engine, except imagic_worker_free. Outputs are written last and only on success.
 *
 * Written by tests/capi.rs from src/host/capi.rs: change that file, not this one. */

#ifndef IMAGIC_H
#define IMAGIC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface. It grows with every change that a compiled program would notice. */
#define IMAGIC_ABI_VERSION 1

/* Bytes of the text in imagic_progress, its NUL included. */
#define IMAGIC_PROGRESS_TEXT 256

/* How a call ended. imagic_last_error has the text for everything but OK. */
typedef enum imagic_status {
    /* All outputs are written. */
    IMAGIC_STATUS_OK = 0,
    /* A NULL, a size or a JSON text that makes no sense; nothing was done. */
    IMAGIC_STATUS_ARGUMENT = 1,
    /* The buffer is too short; how much is needed is written, nothing else. */
    IMAGIC_STATUS_BUFFER_TOO_SMALL = 2,
    /* The job has not ended. */
    IMAGIC_STATUS_RUNNING = 3,
    /* The job was cancelled. */
    IMAGIC_STATUS_CANCELLED = 4,
    /* A parameter is unknown or out of range. */
    IMAGIC_STATUS_PARAMETER = 5,
    /* The base model is missing or cannot be used. */
    IMAGIC_STATUS_MODEL = 6,
    /* The picture cannot be edited. */
    IMAGIC_STATUS_IMAGE = 7,
    /* A file could not be read or written. */
    IMAGIC_STATUS_FILE = 8,
    /* The account or system lacks something. */
    IMAGIC_STATUS_HOST = 9,
    /* The engine failed. */
    IMAGIC_STATUS_ENGINE = 10,
    /* A defect of the library; the handle can still be freed. */
    IMAGIC_STATUS_PANIC = 11,
    /* The machine has too little memory for what was asked. */
    IMAGIC_STATUS_MEMORY = 12
} imagic_status;

/* Where a job is. */
typedef enum imagic_state {
    /* Waiting or running. */
    IMAGIC_STATE_RUNNING = 0,
    /* imagic_job_result has the pixels. */
    IMAGIC_STATE_DONE = 1,
    /* Stopped by imagic_job_cancel or because the worker was freed. */
    IMAGIC_STATE_CANCELLED = 2,
    /* imagic_job_result has the reason. */
    IMAGIC_STATE_FAILED = 3
} imagic_state;

/* The stage of a job that runs. */
typedef enum imagic_stage {
    /* Not started, or the same edit runs in another program. */
    IMAGIC_STAGE_WAITING = 0,
    /* Reading the base model. */
    IMAGIC_STAGE_LOAD_MODEL = 1,
    /* Stage A. */
    IMAGIC_STAGE_OPTIMIZE_TEXT_EMBEDDING = 2,
    /* Stage B. */
    IMAGIC_STAGE_FINE_TUNE = 3,
    /* Stage C. */
    IMAGIC_STAGE_GENERATE = 4,
    /* Stage B of the model that enlarges. */
    IMAGIC_STAGE_FINE_TUNE_DETAIL = 5,
    /* Stage C of the model that enlarges. */
    IMAGIC_STAGE_ENLARGE = 6
} imagic_stage;

/* Layout of one pixel. Alpha is straight; colors are sRGB. */
typedef enum imagic_format {
    /* Four bytes: red, green, blue, alpha. */
    IMAGIC_FORMAT_RGBA8 = 0,
    /* Four bytes: blue, green, red, alpha. */
    IMAGIC_FORMAT_BGRA8 = 1,
    /* Four 16-bit numbers in the machine's byte order: red, green, blue, alpha; need not be aligned. */
    IMAGIC_FORMAT_RGBA16 = 2,
    /* As RGBA16: blue, green, red, alpha. */
    IMAGIC_FORMAT_BGRA16 = 3
} imagic_format;

/* A picture that a program lends for one call. */
typedef struct imagic_picture {
    /* First byte of the top row. */
    const void *pixels;
    /* Bytes behind pixels; at least stride * (height - 1) and one row. */
    size_t pixels_len;
    /* Bytes from one row to the next; at least one row. */
    size_t stride;
    /* Width in pixels. */
    uint32_t width;
    /* Height in pixels. */
    uint32_t height;
    /* An imagic_format. */
    uint32_t format;
} imagic_picture;

/* How far a job is. */
typedef struct imagic_progress {
    /* An imagic_state. */
    uint32_t state;
    /* An imagic_stage: the latest one. */
    uint32_t stage;
    /* Steps of this stage that are done. */
    uint32_t step;
    /* Steps of this stage; 0 while unknown. */
    uint32_t steps;
    /* Share of the whole job, 0 to 1. */
    double fraction;
    /* Seconds until the job is done; negative while unknown. */
    double seconds_left;
    /* Loss of the last step of stages A and B; negative where there is none. */
    double loss;
    /* What a progress bar says, or why the job failed; UTF-8, cut if too long. */
    char text[IMAGIC_PROGRESS_TEXT];
} imagic_progress;

/* The engine on its own thread. */
typedef struct imagic_worker imagic_worker;

/* One edit. */
typedef struct imagic_job imagic_job;

/* IMAGIC_ABI_VERSION of the loaded library; a program compares it with that of its header. */
uint32_t imagic_abi_version(void);

/* Version of Imagic Edit, for people; never freed. */
const char *imagic_version(void);

/* Text of the last call on this thread that did not answer OK; cut to the buffer. text_needed may be NULL and gets
 * the bytes of the whole text with its NUL.
 * The caller promises:
 * text is NULL or has room for text_len bytes. */
imagic_status imagic_last_error(char *text, size_t text_len, size_t *text_needed);

/* The table of parameters as JSON, for building a dialog: {"parameters": [{"id", "label", "help", "tooltip", "kind",
 * "min", "max", "default", "source", "affects", "advanced"}]}.
 * The caller promises:
 * text is NULL or has room for text_len bytes; text_needed is NULL or writable. */
imagic_status imagic_parameters_json(char *text, size_t text_len, size_t *text_needed);

/* Makes a worker; cheap, nothing is loaded. options_json is NULL or an object that may have model_folders (list of
 * paths), cache_folder (path, or null to keep tuned models in memory only) and cache_limit (bytes).
 * Start the program with CANDLE_NUM_THREADS=1 in its environment: without it a library inside waits by spinning.
 * The caller promises:
 * options_json is NULL or a text that ends with NUL; worker is writable. */
imagic_status imagic_worker_new(const char *options_json, imagic_worker **worker);

/* Stops the running job, waits for its current step and ends the engine. Jobs stay valid, as cancelled ones.
 * The caller promises:
 * worker is NULL or comes from imagic_worker_new, and no other call uses it now or later. */
imagic_status imagic_worker_free(imagic_worker *worker);

/* The models that can be named in a request, as JSON:
 * {"models": [{"name", "path", "origin", "family", "bytes", "resolution", "prediction_type", "licence", "few_steps",
 * "inpainting", "description", "examples", "photographs", "params", "presets", "problem"}], "default"}; photographs
 * is false where the model draws none, params are all settings that fit the model, and problem says why it cannot
 * be used, or is null.
 * The caller promises:
 * worker is NULL or alive; text is NULL or has room for text_len bytes; text_needed is NULL or writable. */
imagic_status imagic_models_json(const imagic_worker *worker, char *text, size_t text_len, size_t *text_needed);

/* Queues an edit; it runs when the ones before it have ended. request_json has params (an object by parameter id;
 * what is missing comes from the model's preset) and may have document (a text that is the same every time the
 * document is opened). The picture is copied.
 * The caller promises:
 * worker is NULL or alive; request_json is NULL or ends with NUL; picture is NULL or valid with pixels_len
 * readable bytes behind pixels; job is NULL or writable. */
imagic_status imagic_worker_submit(const imagic_worker *worker, const char *request_json, const imagic_picture *picture, imagic_job **job);

/* As imagic_worker_submit, for a part of the picture: selection has a byte for each pixel, row by row without
 * gaps, 255 where it is to be edited and 0 where it stays as it is; NULL is everything. The model sees the part in its
 * surroundings, and imagic_job_result gives the whole picture.
 * The caller promises:
 * As imagic_worker_submit; selection is NULL or has selection_len readable bytes. */
imagic_status imagic_worker_submit_part(const imagic_worker *worker, const char *request_json, const imagic_picture *picture, const uint8_t *selection, size_t selection_len, imagic_job **job);

/* How far the job is; never waits. Answers OK for a failed job too: look at state.
 * The caller promises:
 * job is NULL or alive; progress is NULL or writable. */
imagic_status imagic_job_poll(const imagic_job *job, imagic_progress *progress);

/* What the user should know of this edit before its time is spent, as a sentence, for example that the model cannot
 * draw pictures like this one; empty if there is nothing. Known from the first step of stage A on, where the model is
 * tuned already of stage C; a finished job keeps it, a failed or cancelled one does not.
 * The caller promises:
 * job is NULL or alive; text is NULL or has room for text_len bytes; text_needed is NULL or writable. */
imagic_status imagic_job_hint(const imagic_job *job, char *text, size_t text_len, size_t *text_needed);

/* Asks the job to stop; it does within one step. No effect on a job that has ended.
 * The caller promises:
 * job is NULL or alive. */
imagic_status imagic_job_cancel(const imagic_job *job);

/* Copies the edited picture, which has the size of the submitted one. Answers RUNNING, CANCELLED or the reason of the
 * failure when there is none. Bytes between the rows are left alone.
 * The caller promises:
 * job is NULL or alive; pixels is NULL or has room for pixels_len bytes. */
imagic_status imagic_job_result(const imagic_job *job, uint32_t format, size_t stride, void *pixels, size_t pixels_len);

/* Everything about a finished edit but its pixels, as JSON: width, height, params, tuned, cache_hit,
 * seconds, seed (of the version that was taken), embedding_losses, tuning_losses, notes, hint (null or
 * kind, text and its numbers).
 * The caller promises:
 * job is NULL or alive; text is NULL or has room for text_len bytes; text_needed is NULL or writable. */
imagic_status imagic_job_report_json(const imagic_job *job, char *text, size_t text_len, size_t *text_needed);

/* Ends the handle; a job that runs is cancelled. Does not wait.
 * The caller promises:
 * job is NULL or comes from imagic_worker_submit, and no other call uses it now or later. */
imagic_status imagic_job_free(imagic_job *job);

#ifdef __cplusplus
}
#endif

#endif
