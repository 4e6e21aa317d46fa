"""How the window looks: Gradio's theme in our colours, each with its dark twin, and what goes into
the page's head.

Layout and our own classes are in `assets/app.css`; behaviour is in `assets/app.js` and
`assets/chart.js`.
"""

from pathlib import Path

from gradio.themes import Base, sizes

ASSETS = Path(__file__).parent / "assets"
CSS_PATHS = sorted(ASSETS.glob("*.css"))
ICON = ASSETS / "icon.png"

SANS = [
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Ubuntu",
    "Helvetica Neue",
    "sans-serif",
]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]

# Each colour as light and dark; the names are those of Gradio's theme variables.
COLOURS: dict[str, tuple[str, str]] = {
    "body_background_fill": ("#f3f5f7", "#0e1216"),
    "body_text_color": ("#17202a", "#e4e9ef"),
    "body_text_color_subdued": ("#4d5b6a", "#9dabb9"),
    "background_fill_primary": ("#ffffff", "#161b21"),
    "background_fill_secondary": ("#f3f5f7", "#1b2128"),
    "block_background_fill": ("#ffffff", "#161b21"),
    "block_border_color": ("#e3e8ee", "#262d35"),
    "block_label_background_fill": ("#ffffff", "#161b21"),
    "block_label_text_color": ("#4d5b6a", "#9dabb9"),
    "block_title_text_color": ("#2c3845", "#c9d2dc"),
    "block_info_text_color": ("#5a6877", "#93a1af"),
    "border_color_primary": ("#e3e8ee", "#262d35"),
    "border_color_accent": ("#0f766e", "#14b8a6"),
    "color_accent_soft": ("#e2f3f0", "#12302d"),
    "link_text_color": ("#0f766e", "#2dd4bf"),
    "link_text_color_hover": ("#115e59", "#5eead4"),
    "link_text_color_active": ("#0f766e", "#2dd4bf"),
    "link_text_color_visited": ("#0f766e", "#2dd4bf"),
    "input_background_fill": ("#fbfcfd", "#0f141a"),
    "input_background_fill_focus": ("#ffffff", "#0f141a"),
    "input_border_color": ("#d3dae2", "#303943"),
    "input_border_color_focus": ("#0f766e", "#14b8a6"),
    "input_placeholder_color": ("#66737f", "#8593a1"),
    "button_primary_background_fill": ("#0f766e", "#14b8a6"),
    "button_primary_background_fill_hover": ("#115e59", "#2dd4bf"),
    "button_primary_text_color": ("#ffffff", "#06201d"),
    "button_primary_text_color_hover": ("#ffffff", "#06201d"),
    "button_primary_border_color": ("#0f766e", "#14b8a6"),
    "button_primary_border_color_hover": ("#115e59", "#2dd4bf"),
    "button_secondary_background_fill": ("#ffffff", "#1d242c"),
    "button_secondary_background_fill_hover": ("#eef2f5", "#262e38"),
    "button_secondary_text_color": ("#1f2b37", "#dbe2ea"),
    "button_secondary_text_color_hover": ("#1f2b37", "#ffffff"),
    "button_secondary_border_color": ("#cfd7df", "#36404b"),
    "button_secondary_border_color_hover": ("#b6c1cc", "#465260"),
    "button_cancel_background_fill": ("#ffffff", "#1d242c"),
    "button_cancel_background_fill_hover": ("#fdeeee", "#3a1d20"),
    "button_cancel_text_color": ("#b42318", "#fca5a5"),
    "button_cancel_text_color_hover": ("#912018", "#fecaca"),
    "button_cancel_border_color": ("#e5b4b0", "#5b2b2f"),
    "button_cancel_border_color_hover": ("#d98f89", "#7a3a3f"),
    "checkbox_background_color": ("#ffffff", "#0f141a"),
    "checkbox_background_color_selected": ("#0f766e", "#0f766e"),
    "checkbox_border_color": ("#aeb9c4", "#465260"),
    "checkbox_border_color_focus": ("#0f766e", "#14b8a6"),
    "checkbox_border_color_hover": ("#0f766e", "#14b8a6"),
    "checkbox_border_color_selected": ("#0f766e", "#14b8a6"),
    "checkbox_label_background_fill": ("#ffffff", "#1d242c"),
    "checkbox_label_background_fill_hover": ("#eef2f5", "#262e38"),
    "checkbox_label_background_fill_selected": ("#e2f3f0", "#12302d"),
    "checkbox_label_border_color": ("#cfd7df", "#36404b"),
    "checkbox_label_text_color": ("#1f2b37", "#dbe2ea"),
    "checkbox_label_text_color_selected": ("#0b4f49", "#99f6e4"),
    "slider_color": ("#0f766e", "#14b8a6"),
    "table_border_color": ("#e3e8ee", "#262d35"),
    "table_even_background_fill": ("#ffffff", "#161b21"),
    "table_odd_background_fill": ("#f8fafb", "#1a2027"),
    "table_row_focus": ("#e2f3f0", "#12302d"),
    "table_text_color": ("#17202a", "#e4e9ef"),
    "code_background_fill": ("#f3f5f7", "#0f141a"),
    "error_background_fill": ("#fdeeee", "#2b1517"),
    "error_border_color": ("#e5b4b0", "#5b2b2f"),
    "error_text_color": ("#912018", "#fecaca"),
    "error_icon_color": ("#b42318", "#f87171"),
    "stat_background_fill": ("#0f766e", "#14b8a6"),
    "loader_color": ("#0f766e", "#14b8a6"),
    "accordion_text_color": ("#17202a", "#e4e9ef"),
    "panel_background_fill": ("#f3f5f7", "#0e1216"),
    "panel_border_color": ("#e3e8ee", "#262d35"),
}

# Not colours: one value for light and dark.
SHAPES: dict[str, str] = {
    "block_shadow": "none",
    "block_border_width": "1px",
    "block_padding": "12px",
    "block_label_shadow": "none",
    "block_title_text_weight": "550",
    "block_title_text_size": "13px",
    "block_info_text_size": "12px",
    "button_large_text_size": "14px",
    "button_large_text_weight": "600",
    "button_large_padding": "8px 16px",
    "button_medium_text_weight": "550",
    "button_small_text_weight": "550",
    "button_primary_shadow": "none",
    "button_secondary_shadow": "none",
    "form_gap_width": "0px",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_text_size": "13.5px",
    "layout_gap": "12px",
    "section_header_text_weight": "600",
}


def theme() -> Base:
    """Build the theme; every colour is set for light and dark, so no default shines through."""
    colours = {name: light for name, (light, _) in COLOURS.items()}
    dark = {f"{name}_dark": night for name, (_, night) in COLOURS.items()}
    return Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=SANS,
        font_mono=MONO,
        radius_size=sizes.radius_md,
        spacing_size=sizes.spacing_sm,
        text_size=sizes.text_sm,
    ).set(**colours, **dark, **SHAPES)


def head() -> str:
    """Give the page's scripts, inline: they must be there before any component loads."""
    names = ("app.js", "chart.js", "train.js", "tabs.js", "data.js")
    scripts = [(ASSETS / name).read_text(encoding="utf-8") for name in names]
    return "".join(f"<script>{script}</script>" for script in scripts)
