#!/usr/bin/env bash
# Edits a sample picture with the installed plug-in in GIMP 2.10, without a window: first with tuning, then with another
# eta from the tuned model that was kept. Usage: demo.sh INSTALLED_PROGRAM
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$1
samples=$root/models/samples
out=$root/demo

fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# The row of demo.png in the table of samples: | `demo.png` ... | what it shows | prompt | ...
picture=$samples/demo.png
prompt=$(awk -F' *[|] *' '/^[|] *`demo.png`/ { print $4 }' "$samples/README.md")
[[ -f $picture && -n $prompt ]] || fail "there is no picture demo.png or no prompt for it in $samples/README.md"
eta=$("$program" models --json | sed -n 's/.*"eta": \([0-9.]*\),*/\1/p' | head -n1)
[[ -n $eta ]] || fail "the built-in model is not installed; run installer/install.sh"
other_eta=$(awk -v eta="$eta" 'BEGIN { print eta - 0.2 }')

mkdir -p "$out"
rm -f "$out"/edited.xcf "$out"/edited.png "$out"/other-eta.png

# edit ETA IN PNG XCF: runs the procedure and says how long it took and where the time went. XCF may be empty.
edit() {
    local started=$EPOCHREALTIME log
    log=$(IMAGIC_IN=$2 IMAGIC_PNG=$3 IMAGIC_XCF=$4 IMAGIC_PROMPT=$prompt IMAGIC_ETA=$1 \
        gimp-console-2.10 -i -d -f -s --batch-interpreter plug-in-script-fu-eval \
        -b "(load \"$root/installer/demo.scm\")" -b '(gimp-quit 0)' 2>&1) ||
        fail "GIMP failed: $log"
    # GIMP ends with 0 after an error in a script too, so only the script's last words prove that it came to its end.
    if [[ $log != *"imagic-demo: done"* ]]; then fail "the edit failed: $log"; fi
    awk -v from="$started" -v to="$EPOCHREALTIME" -v eta="$1" \
        'BEGIN { printf "eta %s: %.1f s, with the start of GIMP\n", eta, to - from }'
    local stage seconds
    for stage in load_model optimize_text_embedding fine_tune generate fine_tune_detail enlarge; do
        seconds=$(sed -n "s/.*imagic-demo: recipe .*\"$stage\":\([0-9.]*\).*/\1/p" <<<"$log")
        if [[ -n $seconds ]]; then printf '  %-24s %6.1f s\n' "${stage//_/ }" "$seconds"; fi
    done
}

printf 'Demo: %s -> "%s"\n' "${picture#"$root"/}" "$prompt"
edit "$eta" "$picture" "$out/edited.png" "$out/edited.xcf"
edit "$other_eta" "$picture" "$out/other-eta.png" ""
cat <<END
Results:
  $out/edited.xcf      the picture with the edit as a new layer above it
  $out/edited.png      before and after, side by side
  $out/other-eta.png   the same with another eta, from the tuned model that was kept
END
