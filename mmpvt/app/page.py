"""The page: an image in, boxes, masks or the label map out."""

from __future__ import annotations

import html
import logging
import os
import traceback
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import gradio as gr
from gradio_client.utils import is_http_url_like
from starlette.middleware import Middleware

from mmpvt.app import trial as trials
from mmpvt.app.guard import MAX_UPLOAD, Guard, host_names
from mmpvt.errors import UserError
from mmpvt.inference.predictor import Predictor
from mmpvt.inference.video import is_video
from mmpvt.utils.constants import SCORE

MAX_SESSIONS = 8  # visitors whose last image is kept
MAX_QUEUE = 16  # requests
DELETE_CACHE = (300, 1800)  # seconds between checks of the files, and their greatest age
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # none is fetched
CSS = """
.gradio-container {width: 100%; max-width: 1320px !important; margin: 0 auto !important}
#head h1 {margin-bottom: 0; font-size: 1.5rem}
#head p {margin-top: .2rem; opacity: .7}
#file {min-height: 150px}
#hint p {opacity: .7; font-size: .9rem}
.times {display: flex; gap: .5rem; flex-wrap: wrap}
.times span {background: var(--background-fill-secondary); border-radius: 8px;
  border: 1px solid var(--border-color-primary); padding: .3rem .7rem; font-size: .85rem}
.times b {font-variant-numeric: tabular-nums}
#result img {cursor: crosshair}
"""


class _Page(gr.Blocks):
    """Gradio's, which prints a traceback for every forged request that it refuses."""

    async def process_api(self, *args, **kwargs) -> dict:
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception:  # none of the page's functions': see _messages
            raise gr.Error("this request can't be used", print_exception=False) from None


def build(predictor: Predictor, title: str) -> gr.Blocks:
    """The page of a model, with its name as the headline."""
    predictor.check_results()
    table = ["class", "score"] if predictor.classifies else ["class", "pixels, %"]
    widths = ["65%", "35%"]
    if predictor.finds_instances:
        table, widths = ["class", "score", "box"], ["46%", "20%", "34%"]
    about = f"{len(predictor.classes)} classes · {predictor.device}"
    with _Page(
        title=f"{title} · mmpvt", delete_cache=DELETE_CACHE, analytics_enabled=False
    ) as page:
        current = gr.State(None, time_to_live=DELETE_CACHE[1])
        gr.Markdown(f"# {title}\n{about}", elem_id="head")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                kinds = ["image", "video"] if find_spec("av") else ["image"]
                file = gr.File(
                    label=" or ".join(kinds), file_types=kinds, elem_id="file", height=150
                )
                file.async_move_resource_to_block_cache = _uploaded
                score = gr.Slider(
                    *(trials.MIN_SCORE, 1, SCORE, 0.01),
                    label="lowest score",
                    elem_id="score",
                    visible=predictor.finds_instances,
                )
                times = gr.HTML(elem_id="times")
                listed = gr.Dataframe(
                    headers=table,
                    label="found",
                    interactive=False,
                    elem_id="found",
                    max_height=420,
                    wrap=True,  # long names would push the scores out of sight
                    column_widths=widths,
                )
            with gr.Column(scale=5, min_width=420):
                result = gr.Image(
                    label="result",
                    format="jpeg",
                    interactive=False,
                    elem_id="result",
                    height=560,
                    buttons=["download", "fullscreen"],
                )
                clip = gr.Video(
                    label="the first ten seconds, five frames of each",
                    interactive=False,
                    autoplay=True,
                    loop=True,
                    visible=False,
                    elem_id="clip",
                    height=560,
                    buttons=["download"],
                )
                hint = gr.Markdown(
                    "Click into the result to see where that position looks, in each stage.",
                    elem_id="hint",
                )
        heat = gr.Image(
            format="jpeg",
            interactive=False,
            show_label=False,
            visible=False,
            elem_id="attention",
            buttons=["fullscreen"],
        )

        def show(trial: trials.Trial | None, value: float) -> tuple:
            if trial is None:
                return None, [], ""
            picture = trials.draw(predictor, trial, float(value))
            height, width = trial.shape
            about = _about(trial.times, f"{width} x {height}")
            return picture, trials.rows(predictor, trial, float(value)), about

        @_messages
        def predict(path: str | None, value: float) -> tuple:
            trial, made, heads = None, None, table
            if path and is_video(path):
                heads = ["frames" if head == "box" else head for head in table]
                made = trials.run_clip(predictor, path, float(value))
                picture, rows, about = None, made.rows, _about(made.times)
                if made.missing:
                    gr.Warning(f"the video is {made.missing:.1f} s shorter than its file says.")
            else:
                trial = trials.run(predictor, path) if path else None
                picture, rows, about = show(trial, value)
            return (
                made or trial,
                gr.Image(value=picture, visible=made is None),
                gr.Dataframe(value=rows, headers=heads),
                about,
                gr.Image(value=None, visible=False),
                gr.Video(value=made and str(made.path), visible=made is not None),
                gr.Markdown(visible=made is None),
            )

        @_messages
        def redraw(trial: trials.Trial | trials.Clip | None, value: float) -> tuple:
            if isinstance(trial, trials.Clip):
                gr.Warning("a clip keeps the score it was uploaded with: upload it again.")
                trial = None
            return show(trial, value) if trial else (gr.skip(), gr.skip(), gr.skip())

        @_messages
        def attend(trial: trials.Trial | trials.Clip | None, event: gr.SelectData) -> object:
            try:
                if not isinstance(trial, trials.Trial):
                    raise UserError("there is no image yet")
                picture = trials.attention(predictor, trial, event.index)
            except UserError as error:  # an error would lie over the result, which takes clicks
                gr.Warning(_sentence(error))
                return gr.skip()
            return gr.Image(value=picture, visible=True)

        model = dict(concurrency_limit=1, concurrency_id="model", show_progress_on=result)
        shown = [result, listed, times]
        file.change(
            predict, [file, score], [current, *shown, heat, clip, hint], api_name="predict", **model
        )
        score.change(
            redraw,
            [current, score],
            shown,
            api_name="redraw",
            trigger_mode="always_last",
            show_progress="hidden",
            **model,
        )
        result.select(attend, [current], [heat], api_name="attention", **model)
    return page.queue(max_size=MAX_QUEUE)


def launch(page: gr.Blocks, host: str, port: int, others: Iterable[str] = ()) -> None:
    """Starts the server, which answers to ``others`` too, and returns."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # warns of every forged upload
    guard = Middleware(
        Guard,
        names=host_names(host, others),
        endpoints={i: (fn.api_name, len(fn.inputs)) for i, fn in page.fns.items()},
        folder=Path(os.environ["GRADIO_TEMP_DIR"]),
    )
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=[],
        blocked_paths=[],
        max_file_size=MAX_UPLOAD,
        state_session_capacity=MAX_SESSIONS,
        app_kwargs=dict(middleware=[guard]),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Soft(primary_hue="indigo", font=FONT, font_mono=FONT),
        css=CSS,
    )


async def _uploaded(path: str) -> str:
    """Takes uploaded files, not URLs that the server would fetch."""
    if is_http_url_like(path):
        raise gr.Error("a URL is not taken: upload the file", print_exception=False)
    if not Path(path).is_file():
        raise gr.Error("the file has been deleted: upload it again", print_exception=False)
    return path


def _messages(function: Callable) -> Callable:
    """Shows a user's mistake as a message on the page; a fault of ours on the console as well."""

    @wraps(function)
    def told(*args, **kwargs) -> object:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise gr.Error(_sentence(error), print_exception=False) from None
        except Exception as error:
            traceback.print_exc()
            sentence = "the server failed on this: its console says why"
            raise gr.Error(sentence, print_exception=False) from error

    return told


def _sentence(error: UserError) -> str:
    return html.escape(str(error), quote=False)


def _about(times: dict[str, float], *others: str) -> str:
    parts = [f"{part} <b>{1000 * value:.0f} ms</b>" for part, value in times.items()]
    return (
        f"<div class='times'>{''.join(f'<span>{part}</span>' for part in (*parts, *others))}</div>"
    )
