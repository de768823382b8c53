"""The command line: ``fewstep list | sample | evaluate | train | compare | likelihood | encode |
inpaint | recover | convert | pin | fid``.

A user's mistake gets one line on standard error and exit status 2, and leaves no file. Libraries that take long to
import are imported by the commands that need them, when they run.
"""

from __future__ import annotations

import sys

import click

from ..errors import UserError
from .listing import list_
from .measuring import compare, evaluate, fid
from .sampling import sample
from .tasks import encode, inpaint, likelihood, recover
from .weights import convert, pin, train

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
COMMANDS = (list_, sample, evaluate, train, compare, likelihood, encode, inpaint, recover, convert, pin, fid)


@click.group(context_settings=CONTEXT, commands=COMMANDS)
def app() -> None:
    """Few-step diffusion sampling: draw, measure and compare samples of any solver."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 0, with 2 after a user's mistake, with 130 when interrupted."""
    try:
        sys.exit(app.main(args=arguments, prog_name="fewstep", standalone_mode=False) or 0)
    except UserError as error:
        message = str(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        message = error.format_message()
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    click.echo(f"fewstep: {' '.join(message.split())}", err=True)
    sys.exit(2)
