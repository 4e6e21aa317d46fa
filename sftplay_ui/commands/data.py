"""Commands that turn a raw file into what training reads: process, style, render."""

from collections.abc import Callable

from sftplay_ui.commands import Answer, Context
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example
from sftplay_ui.engine.data.process import DataProgress, process_files
from sftplay_ui.engine.data.row_checks import TokenLengths
from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.models.store import fetch_model
from sftplay_ui.engine.style.apply import style_files
from sftplay_ui.engine.text.rendered_files import render_files
from sftplay_ui.engine.text.template_check import require_learnable
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.text.token_source import token_source


def process(context: Context) -> Answer:
    """Read, check, split and write the examples of a raw file."""
    args = context.args
    overrides = [f"data.raw_path={args.input}"] if args.input else []
    overrides += [f"data.fixes=[{args.fix}]"] if args.fix else []
    config = context.config(overrides)
    reporter = context.reporter
    phase = ""

    def show(progress: DataProgress) -> None:
        nonlocal phase
        if progress.phase != phase:
            phase = progress.phase
            reporter.begin(phase, progress.total or 0)
        reporter.advance(progress.done, progress.total)

    with reporter.progress:
        report = process_files(
            config, context.workspace, on_progress=show, measure=token_measure(config, context)
        )
    return Answer(report.to_json(), report.to_text())


def token_measure(config: RunConfig, context: Context) -> Callable[[Example], TokenLengths] | None:
    """Count tokens as training will, where the base model is on this machine already."""
    path = config.data.template_path
    try:
        source = token_source(
            config.model.name,
            context.workspace,
            context.workspace.resolve(path) if path else None,
        )
    except ModelError as error:
        context.reporter.say(f"note: {error.what} What is too long will show in training.")
        return None
    return source.lengths(config.model.max_seq_len)


def style(context: Context) -> Answer:
    """Apply a style rule or system prompt to the processed examples."""
    args = context.args
    overrides = [f"style.how={args.how}"] if args.how else []
    config = context.config(overrides)
    if args.style:
        # a rule is a person's own words, so it is never read as YAML
        style_section = config.style.model_copy(update={"rule": args.style})
        config = config.model_copy(update={"style": style_section})
    workspace = context.workspace
    report = style_files(
        config,
        workspace,
        source=workspace.resolve(args.folder_in) if args.folder_in else None,
        target=workspace.resolve(args.folder_out) if args.folder_out else None,
    )
    return Answer(report.to_json(), report.to_text())


def render(context: Context) -> Answer:
    """Write the examples as text by the chat template, input and target apart."""
    config = context.config()
    workspace = context.workspace
    model = fetch_model(config.model.name, revision=config.model.revision, workspace=workspace)
    path = config.data.template_path
    template = choose_template(
        model.path, workspace.resolve(path) if path else None, workspace.templates
    )
    require_learnable(template)
    report = render_files(config, workspace, template)
    return Answer(report.to_json(), report.to_text())
