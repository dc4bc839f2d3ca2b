"""`snap create`."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from snapstore.cli import errors, render, selecting
from snapstore.cli.errors import Usage
from snapstore.cli.progress import reporter
from snapstore.cli.settings import F, HelpMixin, Settings, declare
from snapstore.cli.stores import open_or_make_store
from snapstore.cli.values import COMPRESSION, PATH, assignment

if TYPE_CHECKING:
    from snapstore import CreateResult, Snapshot, Stream

_EXAMPLES = """
snap create /etc /srv/app --name before-upgrade --tag prod
snap create ~ --exclude '*.o' --include keep.o --exclude-file ~/.backupignore -x
snap create ~ --exclude-caches --exclude-larger-than 2G
find . -name '*.c' -print0 | snap create --files-from0 - --source my-code
snap create ~ --exclude '*.o' --dry-run --explain ~/src/main.o
snap create --image /dev/vg0/root --name root-disk
pg_dump app | snap create --stdin app.sql
snap create --stdin-from app.sql='pg_dump app' /srv/app
id=$(snap create -q /srv/app --skip-if-unchanged)
"""


class _Ordered(HelpMixin):
    """Remembers in which order options were given: of patterns, the last that matches decides."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        ctx.meta[_ORDER] = [param.name for param in order]
        return super().parse_args(ctx, args)


_ORDER = "snapstore.cli.create.order"


_RECORDED = (
    click.option("--name", help="A name to refer to the snapshot by."),
    click.option("--tag", "tags", multiple=True, help="A tag (repeatable)."),
    click.option("--description", help="A text of any length."),
    click.option(
        "--meta",
        "metadata",
        multiple=True,
        metavar="KEY=VALUE",
        type=assignment("KEY=VALUE"),
        help="A field of your own (repeatable).",
    ),
    click.option("--source", help="Name of the series (else host and paths)."),
    click.option("--host", help="Host name to record instead of this machine's."),
    click.option("--time", metavar="TIME", help="Time to record: 2026-11-21T08:30, now-2d."),
    click.option("--parent", metavar="REF", help="Parent instead of the newest of the series."),
)


def recorded(function: F) -> F:
    """Adds the options for what is recorded about a new snapshot."""
    for option in reversed(_RECORDED):
        function = option(function)
    return function


@declare("create", examples=_EXAMPLES, cls=_Ordered)
@click.argument("paths", nargs=-1, type=PATH, metavar="[PATH]…")
@recorded
@click.option(
    "--files-from",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Take the paths in FILE too, one to a line; - is standard input (repeatable).",
)
@click.option(
    "--files-from0",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Likewise, separated by NUL, as of find -print0 (repeatable).",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out what matches, in gitignore syntax (repeatable).",
)
@click.option(
    "--iexclude",
    multiple=True,
    metavar="PATTERN",
    help="Likewise, in upper or lower case (repeatable).",
)
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Take back what matches; of all patterns the last counts (repeatable).",
)
@click.option(
    "--exclude-file",
    "exclude_files",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="A file of patterns, like .gitignore (repeatable).",
)
@click.option(
    "--iexclude-file",
    "iexclude_files",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Likewise, in upper or lower case (repeatable).",
)
@click.option("--no-ignore-files", is_flag=True, help="Do not heed .snapignore files.")
@click.option("--exclude-caches", is_flag=True, help="Leave out caches marked by CACHEDIR.TAG.")
@click.option(
    "--exclude-if-present",
    multiple=True,
    metavar="NAME",
    help="Leave out what is in directories that hold NAME (repeatable).",
)
@click.option("--exclude-larger-than", metavar="SIZE", help="Leave out files larger than 500M, 2G.")
@click.option("-x", "--one-file-system", is_flag=True, help="Do not descend into other mounts.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Take a block device's or image's contents (repeatable).",
)
@click.option("--stdin", metavar="NAME", help="Take standard input as a file NAME.")
@click.option(
    "--stdin-from",
    "commands",
    multiple=True,
    metavar="NAME=COMMAND",
    type=assignment("NAME=COMMAND"),
    help="Take a command's output as a file NAME (repeatable).",
)
@click.option("--skip-if-unchanged", is_flag=True, help="No snapshot if nothing has changed.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be taken; write nothing.")
@click.option(
    "--explain",
    "asked",
    multiple=True,
    type=PATH,
    metavar="PATH",
    help="With --dry-run: only say why PATH is in or out (repeatable).",
)
@click.option("--rehash", is_flag=True, help="Read every file, whatever its times say.")
@click.option("--ignore-inode", is_flag=True, help="A new inode or ctime alone is no change.")
@click.option("--compression", type=COMPRESSION, help="For this run instead of the store's.")
@click.pass_obj
def command(
    settings: Settings,
    /,
    stdin: str | None,
    commands: tuple[tuple[str, str], ...],
    metadata: tuple[tuple[str, str], ...],
    asked: tuple[str, ...],
    **options: Any,
) -> int:
    """Take a snapshot of files, directories, disk images or streams.

    Patterns are relative to each PATH. Paths that are named or listed are never left out.

    Prints the snapshot's id and what was new. Exit status 3 means that a snapshot was made, but
    that some files could not be read; they are listed on stderr. A command of --stdin-from that
    fails leaves no snapshot.
    """
    paths, images = options.pop("paths"), options["images"]
    selection = selecting.arguments(options, click.get_current_context().meta[_ORDER])
    lists = selecting.lists(options, stdin_is_taken=bool(stdin))
    if not (paths or images or stdin or commands or lists):
        raise Usage("nothing to take", "name a PATH, or use --image, --stdin or --stdin-from")
    if asked and not options["dry_run"]:
        raise Usage("--explain takes no snapshot", "give it together with --dry-run")
    selecting.warn_of_absolute(selection, paths)
    with ExitStack() as stack:
        listed = selecting.listed(lists)
        opened = open_or_make_store(settings, dry_run=options["dry_run"])
        store = stack.enter_context(opened)
        if asked:
            explained = [
                store.explain(one, *paths, images=images, listed=listed, **selection)
                for one in asked
            ]
            selecting.show(explained, settings)
            return errors.OK
        progress = stack.enter_context(reporter(settings))
        result = store.create(
            *paths,
            listed=listed,
            metadata=dict(metadata),
            streams=_streams(stdin, commands),
            progress=progress,
            **selection,
            **options,
        )
    if settings.json:
        render.document(result.to_dict())
    else:
        print_result(result, settings)
    return errors.PARTIAL if result.partial else errors.OK


def _streams(stdin: str | None, commands: tuple[tuple[str, str], ...]) -> list["Stream"]:
    from snapstore import Stream

    streams = [Stream(name, command=command) for name, command in commands]
    if stdin:
        streams.append(Stream(stdin, fd=0))
    return streams


def print_result(result: "CreateResult", settings: Settings) -> None:
    """What was taken, and what could not be."""
    if settings.quiet:
        if result.snapshot is not None:
            render.out(result.snapshot.id)
    else:
        _print_summary(result)
    if result.unreadable_count:
        render.warning(f"{render.amount(result.unreadable_count, 'path')} could not be read")
        for line in render.grouped(
            result.unreadable, result.unreadable_count, full=settings.verbose
        ):
            render.note(line)
    if result.changed:
        render.warning(f"{render.amount(len(result.changed), 'file')} changed while being read")
        for path in result.changed:
            render.note(f"  {render.name(path)}")
    for path in result.unfinished:
        render.warn_of_unfinished(path, "what was taken")


def _print_summary(result: "CreateResult") -> None:
    render.out(_headline(result))
    would = "would add" if result.dry_run else "added"
    files = (
        f"{render.amount(result.files, 'file')}: {result.new_files:,} new,"
        f" {result.changed_files:,} changed, {result.unchanged_files:,} unmodified"
    )
    render.pairs(
        [
            ("taken", f"{files}; {render.size(result.bytes)}"),
            (would, f"{render.size(result.new_bytes)}, {render.size(result.stored_bytes)} stored"),
            ("left out", _left_out(result)),
            ("took", render.duration(result.elapsed_s)),
        ]
    )


def _headline(result: "CreateResult") -> str:
    if result.snapshot is None:
        return "dry run: nothing was written"
    label = _label(result.snapshot)
    if result.skipped:
        return f"unchanged since snapshot {label}: no new one"
    return f"snapshot {label}" + (" (partial)" if result.partial else "")


def _label(snapshot: "Snapshot") -> str:
    name = f" {render.plain(snapshot.name)}" if snapshot.name else ""
    return snapshot.short_id + name


def _left_out(result: "CreateResult") -> str:
    counts = [
        (result.excluded, "excluded", "excluded"),
        (result.sockets, "socket", "sockets"),
        (result.mounts, "other mount", "other mounts"),
    ]
    return ", ".join(render.amount(count, one, many) for count, one, many in counts if count)
