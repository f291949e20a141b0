"""Draw docs/architecture.svg: the rooms on their floors, and the two walks. Run: python docs/mkdocs/drawing.py"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[1] / "architecture.svg"
WIDTH, HEIGHT, LEFT, TOP = 600, 36, 14, 34
GREY, BATCH, TRIAL = "#eceff4", ("#cfe3ff", "#bfe8e4", "#d9d2f7"), "#ffdcb8"
FLOORS = [
    ("commands", [("train.py", GREY), ("evaluate.py", GREY), ("predict.py", GREY), ("report/", GREY)]),
    ("the course's questions", [("study/", GREY), ("grid.py", GREY)]),
    ("what pages consist of", [("pages/", GREY)]),
    ("runs on the disk, read", [("runs/", GREY)]),
    ("sweeps; predictions", [("sweep/", TRIAL), ("prediction/", GREY), ("protocols/", GREY)]),
    ("the loop, records", [("training/", BATCH[1])]),
    ("metrics, validation", [("evaluation/", GREY)]),
    ("nets and objective", [("show.py", GREY), ("model/", BATCH[2])]),
    ("runs that go on", [("resume.py", GREY), ("run_record.py", GREY), ("damage.py", GREY)]),
    ("other ways to start", [("from_python.py", GREY), ("experiment_file.py", GREY)]),
    ("before a run folder", [("start.py", GREY), ("repeat.py", GREY)]),
    ("around Hydra", [("cli.py", GREY), ("strangers.py", GREY), ("resolvers.py", GREY)]),
    ("settings into objects", [("config.py", GREY), ("charts.py", GREY), ("run_schedules.py", GREY)]),
    ("frames; pure functions", [("data/", BATCH[0]), ("schedules.py", GREY), ("metrics.py", GREY)]),
    ("a run's folder, its GPUs", [("owner.py", GREY), ("gpus.py", GREY), ("pictures.py", GREY)]),
    ("errors, options", [("explain.py", GREY), ("options.py", GREY)]),
    ("small things", [("console.py", GREY), ("trial.py", GREY), ("process.py", GREY), ("integrity.py", GREY)]),
    ("bad input", [("arguments.py", GREY), ("errors.py", GREY), ("files.py", GREY)]),
]
WALKS = [
    ("A batch", [("store", BATCH[0]), ("feed", BATCH[1]), ("trainer", BATCH[1]), ("model", BATCH[2]), ("objective", BATCH[2])]),
    ("A trial", [(name, TRIAL) for name in ("sweeper", "engine", "launcher", "job", "study")]),
]


def box(x: float, y: float, width: float, name: str, fill: str) -> str:
    middle = f'x="{x + width / 2:g}" y="{y + 19:g}" text-anchor="middle"'
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="28" rx="5" fill="{fill}"/><text {middle}>{name}</text>'


def floors() -> list[str]:
    parts = [f'<text class="title" x="{LEFT}" y="22">Rooms of cvae/: each imports only from below</text>']
    for number, (role, rooms) in enumerate(FLOORS):
        y, wide = TOP + number * HEIGHT, (WIDTH - 190 - LEFT) / len(rooms)
        parts.append(f'<text class="role" x="{LEFT}" y="{y + 19}">{role}</text>')
        parts += [box(190 + place * wide, y, wide - 6, *room) for place, room in enumerate(rooms)]
    return parts


def walks() -> list[str]:
    parts, wide = [], (WIDTH - 90 - LEFT) / 5
    for number, (title, stations) in enumerate(WALKS):
        y = TOP + len(FLOORS) * HEIGHT + 22 + number * 46
        parts.append(f'<text class="title" x="{LEFT}" y="{y + 19}">{title}</text>')
        for place, station in enumerate(stations):
            x = 90 + place * wide
            parts.append(box(x, y, wide - 22, *station))
            if place < 4:
                parts.append(f'<path d="M{x + wide - 20:g} {y + 14} h14 m-5 -4 l5 4 l-5 4"/>')
    return parts


def drawing() -> str:
    height = TOP + len(FLOORS) * HEIGHT + 22 + 2 * 46
    style = "text{font:14px sans-serif;fill:#1d2433}.role{fill:#5a6478;font-size:13px}.title{font-weight:bold}"
    style += "path{stroke:#5a6478;fill:none;stroke-width:1.5}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    words = "<title>The rooms of cvae on their floors, the walk of a batch and the walk of a trial</title>"
    back = f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>'
    return "\n".join([head, words, f"<style>{style}</style>", back, *floors(), *walks(), "</svg>", ""])


if __name__ == "__main__":
    OUT.write_text(drawing(), encoding="utf-8")
