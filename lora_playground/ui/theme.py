"""Gradio's theme with this app's colours, and the page's head with fonts, style sheet and script.

All of it is part of the page itself, so that the browser asks no other host. It knows no tab.
"""

from __future__ import annotations

import base64

import gradio as gr

from lora_playground.assets import ASSETS
from lora_playground.errors import AssetError

FOLDER = ASSETS / "theme"
SCRIPTS = (
    *("app.js", "terms.js", "empty.js", "live.js", "sweep.js", "menu.js", "chat.js"),
    *("lesson-pictures.js", "lesson.js", "class-answers.js", "class.js", "claims.js"),
)
"""In the order of loading: each uses only those before it."""
CLASS_SCRIPTS = ("app.js", "lesson-pictures.js", "class-answers.js", "class-page.js")
_FONTS = (
    ("Atkinson Hyperlegible Next", "atkinson-hyperlegible-next-latin-wght-normal.woff2"),
    ("Atkinson Hyperlegible Mono", "atkinson-hyperlegible-mono-latin-wght-normal.woff2"),
)


def theme() -> gr.themes.Base:
    """Gradio's base theme with this app's fonts and colours. The style sheet does the rest."""
    ours = gr.themes.Base(
        font=["Atkinson Hyperlegible Next", "system-ui", "sans-serif"],
        font_mono=["Atkinson Hyperlegible Mono", "ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    )
    pairs = {
        "block_background_fill": "transparent",
        "body_text_color": "var(--lp-ink)",
        "body_text_color_subdued": "var(--lp-soft)",
        "border_color_primary": "var(--lp-line)",
        "input_background_fill": "var(--lp-card)",
        "background_fill_primary": "var(--lp-card)",
        "background_fill_secondary": "var(--lp-tint)",
        "color_accent_soft": "var(--lp-tint)",
        "block_label_text_color": "var(--lp-ink)",
        "block_title_text_color": "var(--lp-ink)",
        "block_info_text_color": "var(--lp-soft)",
        "checkbox_background_color": "var(--lp-card)",
        "checkbox_background_color_selected": "var(--lp-accent)",
        "checkbox_border_color": "var(--lp-soft)",
        "checkbox_border_color_selected": "var(--lp-accent)",
        "checkbox_label_background_fill": "var(--lp-card)",
        "link_text_color": "var(--lp-accent)",
        "slider_color": "var(--lp-accent)",
        "table_even_background_fill": "var(--lp-card)",
        "table_odd_background_fill": "var(--lp-paper)",
        "code_background_fill": "var(--lp-tint)",
    }
    both = pairs | {f"{name}_dark": value for name, value in pairs.items()}
    # The body is painted before the style sheet is loaded, so its colour cannot be a variable of that.
    return ours.set(
        body_background_fill="#f3f4ef",
        body_background_fill_dark="#0f181c",
        color_accent="var(--lp-accent)",
        block_shadow="none",
        **both,
    )


def head() -> str:
    """The contents of the page's <head>: fonts as data, style sheet, scripts. Raises AssetError."""
    scripts = [_read(name).decode() for name in SCRIPTS]
    return f"<style>{_styles()}</style>\n<script>{chr(10).join(scripts)}</script>"


def _styles() -> str:
    faces = "".join(
        f'@font-face{{font-family:"{family}";font-weight:200 800;font-display:swap;'
        f"src:url(data:font/woff2;base64,{base64.b64encode(_read('fonts/' + name)).decode()}) format('woff2')}}"
        for family, name in _FONTS
    )
    styles = ("app.css", "lesson.css", "class.css", "claims.css", "lab.css")
    return "\n".join([faces, *(_read(name).decode() for name in styles)])


def class_parts() -> tuple[str, str]:
    """(styles, scripts) of the separate pages for classes. Raises AssetError."""
    scripts = [_read(name).decode() for name in CLASS_SCRIPTS]
    return f"<style>{_styles()}</style>", f"<script>{chr(10).join(scripts)}</script>"


def _read(name: str) -> bytes:
    path = FOLDER / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise AssetError(
            f"The theme's file {path} cannot be read ({error.strerror}); restore it with: git checkout -- assets/theme"
        ) from error
