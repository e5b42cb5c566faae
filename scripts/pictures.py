"""Line charts with bands as SVG, which a page shows as it is."""

import html

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 48, 36, 120, 40
COLOURS = ["#1f6fb4", "#d95f0e", "#2a9d5c", "#7b4ab2", "#c0392b", "#8c6d31", "#16a2b8", "#e377c2", "#666666", "#bcbd22", "#000000"]


def text(x, y, words, **more):
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" font-family="sans-serif" fill="#333"{attributes}>{html.escape(words)}</text>'


def chart(title, axis, names, lines, unit="%"):
    """`lines` are (name, means, spreads) over the ticks `names`; the band is a mean plus and minus its spread."""
    top = max(m + s for _, means, spreads in lines for m, s in zip(means, spreads))
    bottom = min(0, min(m - s for _, means, spreads in lines for m, s in zip(means, spreads)))
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    x = lambda at: LEFT + across * at / max(1, len(names) - 1)
    y = lambda value: TOP + down * (top - value) / (top - bottom or 1)
    parts = [text(LEFT, 20, title, font_weight="bold"), text(LEFT + across / 2, HEIGHT - 6, axis, text_anchor="middle")]
    for step in range(5):
        value = bottom + (top - bottom) * step / 4
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + across}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y(value) + 4, f"{value:.0f}{unit if step == 4 else ''}", text_anchor="end"))
    parts += [text(x(at), HEIGHT - BOTTOM + 16, str(name), text_anchor="middle") for at, name in enumerate(names)]
    for row, (name, means, spreads) in enumerate(lines):
        colour = COLOURS[row % len(COLOURS)]
        points = lambda values: " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in values)
        upper = [(at, m + s) for at, (m, s) in enumerate(zip(means, spreads))]
        lower = [(at, m - s) for at, (m, s) in enumerate(zip(means, spreads))]
        parts.append(f'<polygon points="{points(upper + lower[::-1])}" fill="{colour}" opacity="0.15"/>')
        parts.append(f'<polyline points="{points(enumerate(means))}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(LEFT + across + 8, TOP + 14 * row + 10, name).replace("#333", colour))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
