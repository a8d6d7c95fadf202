#!/bin/bash
# The first half hour on a GPU, in parts of under ten minutes: docs/untested.md says what each should print, and what to do if it does not.
#
#     benchmarks/first_gpu.sh look|tests|speed|speed32|compiled|resume|cifar10|svm
#
# OUT: folder for what is to be kept (default /tmp/first_gpu). HOME_GPU: store (default /tmp/gpu_home). DATA: folder that holds cifar10/*.parquet.
# PYTHON: a Python with torch for CUDA (default python3). COMMIT: what to call the code where there is no git.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-/tmp/first_gpu} HOME_GPU=${HOME_GPU:-/tmp/gpu_home} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

bare() { "$PYTHON" benchmarks/bare.py "$@" --home "$HOME_GPU" --set dedup.mode=off "${SETTINGS[@]}"; }
SETTINGS=()

case "${1:-}" in
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
    # killed once it has trained for a while: two states are there, and a third is on its way or has replaced one
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
    touch "$HOME_GPU.mark"
    bare cifar10 --scale full --data "$DATA" --until train --max-seconds 420 2>&1 | tee "$OUT/cifar10-train.txt"
    cp "$(find "$HOME_GPU/artifacts/train" "$HOME_GPU/state/train" -name 'grid-*.png' -newer "$HOME_GPU.mark" | sort | tail -1)" "$OUT/cifar10-grid.png"
    grep -q '"paused": true' "$OUT/cifar10-train.txt" && exit # again: it continues
    bare cifar10 --scale full --data "$DATA" 2>&1 | tee "$OUT/cifar10.txt"
    cp "$(find "$HOME_GPU/artifacts/report" -name report.html -newer "$HOME_GPU.mark" | head -1)" "$OUT/cifar10-report.html"
    ;;
svm)
    folder=$(dirname "$(find "$HOME_GPU/artifacts/extract" -name 'features-*.parquet' | xargs ls -S | head -1)")
    "$PYTHON" benchmarks/svm.py "$folder" --device cuda --rows 50000 --tolerances "" 2>&1 | tee "$OUT/svm-50000.txt"
    "$PYTHON" benchmarks/extract.py --device cuda --pictures 16384 --batch 512 2>&1 | tee "$OUT/extract.txt"
    "$PYTHON" benchmarks/svm.py "$folder" --device cuda --tolerances 0.1 --limit 120 2>&1 | tee "$OUT/svm.txt"
    ;;
*)
    sed -n '2,7p' "$0"
    exit 2
    ;;
esac
