#!/bin/bash
# The first 15 minutes on a GPU, in parts of under ten; docs/untested.md says what each should
# print, and what to do if it does not.
#
#     benchmarks/first_gpu.sh sizes|first|contrastive|contrastive-only|adversarial-only
#     benchmarks/first_gpu.sh tiny-imagenet|bigbigan|egan
#     benchmarks/first_gpu.sh look|tests|speed|speed32|compiled|resume|cifar10|svm
#
# OUT: folder for what is to be kept (default /tmp/first_gpu). HOME_GPU: store (default
# /tmp/gpu_home). DATA: folder that holds cifar10/*.parquet and tiny-imagenet-32/*.parquet.
# SCALE=debug rehearses on a CPU. PYTHON: a Python with torch for CUDA (default python3). COMMIT:
# the code's name without git.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-/tmp/first_gpu} HOME_GPU=${HOME_GPU:-/tmp/gpu_home} PYTHON=${PYTHON:-python3} SCALE=${SCALE:-full}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

bare() { "$PYTHON" benchmarks/bare.py "$@" --home "$HOME_GPU" --set dedup.mode=off "${SETTINGS[@]}"; }
SETTINGS=()

# run_part NAME RECIPE SECONDS [SETTING ...]: trains for at most so long, extracts, scores; keeps
# the log, the report, the last grid and the snapshot's weights in bf16
run_part() {
    local name=$1 recipe=$2 seconds=$3
    shift 3
    SETTINGS=("$@")
    touch "$HOME_GPU.mark"
    bare "$recipe" --scale "$SCALE" --data "$DATA" --until train --max-seconds "$seconds" 2>&1 | tee "$OUT/$name-train.txt"
    keep "$HOME_GPU" 'grid-*.png' "$OUT/$name-grid.png"
    grep -q '"paused": true' "$OUT/$name-train.txt" && return # the same part again continues it
    bare "$recipe" --scale "$SCALE" --data "$DATA" 2>&1 | tee "$OUT/$name.txt"
    keep "$HOME_GPU/artifacts/report" report.html "$OUT/$name-report.html"
    keep "$HOME_GPU/artifacts/train" 'snapshot-*.safetensors' "$OUT/$name.safetensors"
    [ -f "$OUT/$name.safetensors" ] && "$PYTHON" - "$OUT/$name.safetensors" <<'END'
import sys, torch
from safetensors import safe_open
from safetensors.torch import save_file
path = sys.argv[1]
with safe_open(path, "pt") as file:
    meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
save_file({n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}, path, meta)
END
    ls -l "$OUT" | awk '{print $5, $9}'
}

# keep FOLDER PATTERN TARGET: the newest such file since the part began
keep() {
    local found
    found=$(find "$1" -name "$2" -newer "$HOME_GPU.mark" -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-)
    [ -n "$found" ] && cp "$found" "$3"
}

case "${1:-}" in
sizes)
    git ls-files -z 2>/dev/null | xargs -0 du -cb | tail -1 | awk '{printf "tree %.1f MiB\n", $1 / 2^20}'
    (cd "$DATA" && du -b cifar10/*.parquet tiny-imagenet-32/*.parquet) | awk '{printf "%s %.1f MiB\n", $2, $1 / 2^20}'
    ;;
first) # command 1: at most three minutes
    "$0" look
    "$PYTHON" -m pytest -q -p no:cacheprovider tests/unit/test_training_graphs.py tests/unit/test_training_cuda.py \
        2>&1 | tee "$OUT/tests.txt"
    timeout 60 "$PYTHON" benchmarks/training.py --networks dcgan64:0.5 --rounds 1 --seconds 2 --commit "${COMMIT:-}" \
        2>&1 | tee "$OUT/speed.md"
    ;;
contrastive) # command 2: at most nine minutes
    run_part contrastive cifar10-contrastive 500
    ;;
contrastive-only) # the ablation, at a quarter of the passes, KIMG
    run_part contrastive-only cifar10-contrastive 200 \
        train.options.adversarial=false "train.kimg=${KIMG:-750}"
    ;;
adversarial-only) # as above: an ordinary GAN on the same views
    run_part adversarial-only cifar10-contrastive 200 \
        train.options.contrastive=false "train.kimg=${KIMG:-750}"
    ;;
tiny-imagenet) # the paper's own case: dcgan32 on other images
    run_part tiny-imagenet tiny-imagenet32-cifar10 240
    ;;
bigbigan)
    run_part bigbigan cifar10 240 train.method=bigbigan train.network.name=resnet32 train.network.width=0.5 extract.mode=bn_crelu
    ;;
egan)
    run_part egan cifar10 240 train.method=egan
    ;;
look)
    {
        nvidia-smi --query-gpu=name,memory.total,memory.used,driver_version --format=csv
        "$PYTHON" -c 'import sys, torch; print(sys.version.split()[0], torch.__version__, torch.cuda.get_device_name(), torch.backends.cudnn.version())'
        command -v gcc g++ nvcc
        "$PYTHON" -m pytest -q -p no:cacheprovider tests/stages/test_bare_machine.py
    } 2>&1 | tee "$OUT/look.txt"
    ;;
tests)
    "$PYTHON" -m pytest -v -p no:cacheprovider --durations=10 --log-level=INFO -o log_cli=true \
        tests/unit/test_training_graphs.py tests/unit/test_training_cuda.py 2>&1 | tee "$OUT/tests.txt"
    ;;
speed | speed32)
    networks=dcgan64:0.5
    [ "$1" = speed32 ] && networks="dcgan32_svhn dcgan32"
    # shellcheck disable=SC2086
    "$PYTHON" benchmarks/training.py --networks $networks --rounds 3 --seconds 3 --profile "$OUT/$1" --commit "${COMMIT:-}" 2>&1 | tee "$OUT/$1.md"
    tar -C "$OUT" -czf "$OUT/$1-profiles.tgz" "$1" && rm -r "${OUT:?}/$1"
    ;;
compiled)
    "$PYTHON" benchmarks/training.py --networks dcgan64:0.5 --rounds 2 --seconds 3 --compile --commit "${COMMIT:-}" 2>&1 | tee "$OUT/compiled.md"
    "$PYTHON" benchmarks/training.py --networks dcgan64:0.5 --batch 1024 --rounds 2 --seconds 3 --commit "${COMMIT:-}" 2>&1 | tee "$OUT/batch1024.md"
    ;;
resume)
    SETTINGS=(train.kimg=10000 train.precision=bf16 train.state_kimg=100 train.log_kimg=20 train.on_divergence=warn)
    (exec "$PYTHON" benchmarks/bare.py digits --scale full --until train --home "$HOME_GPU" --set dedup.mode=off "${SETTINGS[@]}") \
        >"$OUT/killed.txt" 2>&1 &
    training=$!
    # killed once it has trained for a while: two states are there, and a third is on its way or has
    # replaced one
    for _ in $(seq 300); do
        [ "$(find "$HOME_GPU/state/train" -path '*state-*' -name manifest.json 2>/dev/null | wc -l)" -ge 2 ] && break
        kill -0 $training 2>/dev/null || break
        sleep 0.5
    done
    sleep 2
    kill -KILL $training
    wait $training
    tail -3 "$OUT/killed.txt"
    bare digits --scale full 2>&1 | tee "$OUT/resumed.txt"
    ;;
cifar10)
    run_part cifar10 cifar10 420
    ;;
svm)
    folder=$(dirname "$(find "$HOME_GPU/artifacts/extract" -name 'features-*.parquet' | xargs ls -S | head -1)")
    "$PYTHON" benchmarks/svm.py "$folder" --device cuda --rows 50000 --tolerances "" 2>&1 | tee "$OUT/svm-50000.txt"
    "$PYTHON" benchmarks/extract.py --device cuda --images 16384 --batch 512 2>&1 | tee "$OUT/extract.txt"
    "$PYTHON" benchmarks/svm.py "$folder" --device cuda --tolerances 0.1 --limit 120 2>&1 | tee "$OUT/svm.txt"
    ;;
*)
    sed -n '2,12p' "$0"
    exit 2
    ;;
esac
