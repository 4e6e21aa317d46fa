# The names people know, each one call of launch.py. CONFIG, RUN, ARGS and PYTHON may be set: make train CONFIG=configs/run_cpu.yaml
PYTHON ?= python3
CONFIG ?= configs/run_bnb.yaml
UNSLOTH_CONFIG ?= configs/run_unsloth.yaml
RUN ?=
OUT ?= outputs/merged
ARGS ?=
APP = $(PYTHON) launch.py

.DEFAULT_GOAL := help
.PHONY: install setup-dirs process style render full-pipeline check train train-bnb train-unsloth \
	train-with-tb train-bnb-tb train-unsloth-tb eval eval-test eval-quick eval-full infer infer-batch \
	infer-interactive download-model merge merge-bf16 merge-test tensorboard tb-stop tb-clean tb-open \
	clean help lint test test-unsloth

install: ## make .venv and install what the app needs
	$(APP) check $(ARGS)

setup-dirs: ## make the folders for data, runs and adapters
	mkdir -p data/raw data/processed data/processed_with_style data/rendered outputs/tb adapters

process: ## raw file -> data/processed
	$(APP) process --config $(CONFIG) $(ARGS)

style: ## data/processed -> data/processed_with_style
	$(APP) style --config $(CONFIG) $(ARGS)

render: ## messages -> text by the chat template, into data/rendered
	$(APP) render --config $(CONFIG) $(ARGS)

full-pipeline: process style render train eval ## raw file -> tuned and measured model

check: ## is everything ready for a run?
	$(APP) check --config $(CONFIG) $(ARGS)

train: ## train with $(CONFIG)
	$(APP) train --config $(CONFIG) $(ARGS)

train-bnb: ## train with bitsandbytes
	$(APP) train --config $(CONFIG) --set tuning.backend=bnb $(ARGS)

train-unsloth: ## train with unsloth
	$(APP) train --config $(UNSLOTH_CONFIG) --set tuning.backend=unsloth $(ARGS)

train-with-tb: ## train, with TensorBoard running
	$(APP) tensorboard --start
	$(APP) train --config $(CONFIG) --set logging.backend=tensorboard $(ARGS)

train-bnb-tb: ## train with bitsandbytes, with TensorBoard running
	$(APP) tensorboard --start
	$(APP) train --config $(CONFIG) --set tuning.backend=bnb --set logging.backend=tensorboard $(ARGS)

train-unsloth-tb: ## train with unsloth, with TensorBoard running
	$(APP) tensorboard --start
	$(APP) train --config $(UNSLOTH_CONFIG) --set tuning.backend=unsloth --set logging.backend=tensorboard $(ARGS)

eval: ## measure RUN (the last one) on the validation split
	$(APP) eval --config $(CONFIG)$(if $(RUN), --run $(RUN)) --split val $(ARGS)

eval-test: ## measure RUN (the last one) on the test split
	$(APP) eval --config $(CONFIG)$(if $(RUN), --run $(RUN)) --split test $(ARGS)

eval-quick: ## measure RUN (the last one) on 20 questions
	$(APP) eval --config $(CONFIG)$(if $(RUN), --run $(RUN)) --split val --limit 20 $(ARGS)

eval-full: ## measure RUN (the last one) on both splits
	$(APP) eval --config $(CONFIG)$(if $(RUN), --run $(RUN)) --split val $(ARGS)
	$(APP) eval --config $(CONFIG)$(if $(RUN), --run $(RUN)) --split test $(ARGS)

infer: infer-interactive ## chat in the terminal

infer-interactive: ## chat in the terminal
	$(APP) infer --config $(CONFIG)$(if $(RUN), --run $(RUN)) --mode interactive $(ARGS)

infer-batch: ## answer the questions of INPUT into OUTPUT
	$(APP) infer --config $(CONFIG)$(if $(RUN), --run $(RUN)) --mode batch --input_file $(INPUT) --output_file $(OUTPUT) $(ARGS)

download-model: ## fetch the base model now
	$(APP) download-model --config $(CONFIG) $(ARGS)

merge: ## fold the adapter of RUN (the last one) into its base model (fp16)
	$(APP) merge --config $(CONFIG)$(if $(RUN), --adapters $(RUN)) --out $(OUT) --dtype fp16 $(ARGS)

merge-bf16: ## the same in bf16
	$(APP) merge --config $(CONFIG)$(if $(RUN), --adapters $(RUN)) --out $(OUT) --dtype bf16 $(ARGS)

merge-test: ## check the merged model folder
	$(APP) check --kind model $(OUT) $(ARGS)

tensorboard: ## show training curves in TensorBoard
	$(APP) tensorboard --start $(ARGS)

tb-stop: ## stop TensorBoard
	$(APP) tensorboard --stop

tb-open: ## open TensorBoard in the browser
	$(APP) tensorboard --start --open

tb-clean: ## delete TensorBoard's logs; runs stay
	$(APP) tensorboard --clean

clean: ## delete caches and derived data; raw data, runs and adapters stay
	rm -rf data/processed/*.jsonl data/processed_with_style/*.jsonl data/rendered/*.jsonl
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find sftplay_ui tests -name __pycache__ -type d -prune -exec rm -rf {} +

lint: ## format, lint, contracts and types
	$(APP) test tests/test_house.py $(ARGS)

test: ## run every test
	$(APP) test $(ARGS)

test-unsloth: ## install unsloth into the cache and train with it; takes minutes
	SFTPLAY_TEST_UNSLOTH=1 $(APP) test tests/flows/test_unsloth_flow.py -rs $(ARGS)

help: ## show these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20
