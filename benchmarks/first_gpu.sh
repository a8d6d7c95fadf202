#!/bin/bash
# The first half hour on a GPU, in parts of under ten minutes: docs/untested.md says what each should print, and what to do if it does not.
#
#     benchmarks/first_gpu.sh look|tests|speed|compiled|resume|cifar10|svm
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
speed)
    "$PYTHON" benchmarks/training.py --networks dcgan64:0.5 dcgan32_svhn dcgan32 --rounds 3 --seconds 3 \
        --profile "$OUT/profile" --commit "${COMMIT:-}" 2>&1 | tee "$OUT/speed.md"
    ;;
compiled)
    "$PYTHON" benchmarks/training.py --networks dcgan64:0.5 --rounds 2 --seconds 3 --compile --commit "${COMMIT:-}" 2>&1 | tee "$OUT/compiled.md"
    "$PYTHON" benchmarks/training.py --networks dcgan64:0.5 --batch 1024 --rounds 2 --seconds 3 --commit "${COMMIT:-}" 2>&1 | tee "$OUT/batch1024.md"
    ;;
resume)
    SETTINGS=(train.kimg=2000 train.precision=bf16 train.state_kimg=20 train.log_kimg=20)
    timeout -s KILL 45 "$PYTHON" benchmarks/bare.py digits --scale full --until train --home "$HOME_GPU" --set dedup.mode=off "${SETTINGS[@]}" 2>&1 |
        tee "$OUT/killed.txt"
    bare digits --scale full 2>&1 | tee "$OUT/resumed.txt"
    ;;
cifar10)
    SETTINGS=(train.log_kimg=20) # a line of statistics costs as much as several steps on a GPU
    bare cifar10 --scale full --data "$DATA" --until train 2>&1 | tee "$OUT/cifar10-train.txt"
    bare cifar10 --scale full --data "$DATA" 2>&1 | tee "$OUT/cifar10.txt"
    cp "$(find "$HOME_GPU/artifacts/report" -name report.html -newer "$OUT/cifar10-train.txt" | head -1)" "$OUT/cifar10-report.html"
    cp "$(find "$HOME_GPU/artifacts/train" -name 'grid-*.png' -newer "$OUT/look.txt" | sort | tail -1)" "$OUT/cifar10-grid.png"
    ;;
svm)
    folder=$(dirname "$(find "$HOME_GPU/artifacts/extract" -name 'features-*.parquet' | xargs ls -S | head -1)")
    "$PYTHON" benchmarks/svm.py "$folder" --device cuda --limit 60 2>&1 | tee "$OUT/svm.txt"
    "$PYTHON" benchmarks/svm.py "$folder" --device cuda --rows 50000 --tolerances "" 2>&1 | tee "$OUT/svm-50000.txt"
    "$PYTHON" benchmarks/extract.py --device cuda --pictures 16384 --batch 512 2>&1 | tee "$OUT/extract.txt"
    ;;
*)
    sed -n '2,7p' "$0"
    exit 2
    ;;
esac
