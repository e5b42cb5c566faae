"""Line charts with bands as SVG, which a page shows as it is."""

import html

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 740, 360, 48, 36, 220, 40
COLOURS = ["#1f6fb4", "#d95f0e", "#2a9d5c", "#7b4ab2", "#c0392b", "#8c6d31", "#16a2b8", "#e377c2", "#666666", "#bcbd22", "#000000"]


def text(x, y, words, **more):
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" font-family="sans-serif" fill="#333"{attributes}>{html.escape(words)}</text>'


def chart(title, axis, names, lines):
    """`lines` are (name, means, spreads) in percent over the ticks `names`; the band is a mean plus and minus its spread."""
    return draw(title, axis, list(enumerate(names)), [(name, range(len(names)), *values) for name, *values in lines])


def curves(title, axis, lines):
    """`lines` are (name, places, means, spreads), each over places of its own on one axis that begins at 0."""
    end = max(max(places) for _, places, *_ in lines)
    ticks = [(end * step / 4, f"{end * step / 4:.3g}") for step in range(5)]
    return draw(title, axis, ticks, lines)


def draw(title, axis, ticks, lines):
    """`ticks` are (place, name), `lines` (name, places, means, spreads)."""
    top = max(m + s for _, _, means, spreads in lines for m, s in zip(means, spreads))
    bottom = min(0, min(m - s for _, _, means, spreads in lines for m, s in zip(means, spreads)))
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    x = lambda place: LEFT + across * place / (ticks[-1][0] or 1)
    y = lambda value: TOP + down * (top - value) / (top - bottom or 1)
    parts = [text(LEFT, 20, title, font_weight="bold"), text(LEFT + across / 2, HEIGHT - 6, axis, text_anchor="middle")]
    for step in range(5):
        value = bottom + (top - bottom) * step / 4
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + across}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y(value) + 4, f"{value:.0f}{'%' if step == 4 else ''}", text_anchor="end"))
    parts += [text(x(place), HEIGHT - BOTTOM + 16, str(name), text_anchor="middle") for place, name in ticks]
    for row, (name, places, means, spreads) in enumerate(lines):
        colour = COLOURS[row % len(COLOURS)]
        points = lambda values: " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in values)
        upper = [(place, m + s) for place, m, s in zip(places, means, spreads)]
        lower = [(place, m - s) for place, m, s in zip(places, means, spreads)]
        parts.append(f'<polygon points="{points(upper + lower[::-1])}" fill="{colour}" opacity="0.15"/>')
        parts.append(f'<polyline points="{points(zip(places, means))}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(LEFT + across + 8, TOP + 14 * row + 10, name).replace("#333", colour))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
