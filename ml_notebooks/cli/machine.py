"""The dashboards, the warm kernels and the state of this machine."""

from datetime import datetime, timezone
from typing import Annotated

import typer

from .app import Json, app, find


@app.command()
def dashboard(
    name: Annotated[str, typer.Argument(help="A notebook in nbs/dashboards.")] = "overview",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on; default from settings.ini.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Serve a dashboard with Voila."""
    from ..dashboards.serve import serve

    serve(find(), name, port, browser)


kernel = typer.Typer(help="Warm kernels: install the kernelspec, see and stop their parents.", no_args_is_help=True)
app.add_typer(kernel, name="kernel")



@kernel.command("install")
def kernel_install() -> None:
    """Install the kernelspec `mlnb`, for JupyterLab, papermill, nbval and Voila."""
    from ..pipelines.kernels import KERNEL_NAME, install_kernelspec

    print(f"Installed `{KERNEL_NAME}`, Python 3 (warm), in {install_kernelspec()}")


@kernel.command("status")
def kernel_status(json: Json = False) -> None:
    """List the processes that warm kernels are forked from."""
    from ..pipelines.kernels import parents
    from ..terminal import print_rows

    rows = [
        {
            "pid": parent["pid"],
            "since": datetime.fromtimestamp(parent["since"], timezone.utc),
            "kernels": len(parent["kernels"]),
            "forked": parent["forked"],
            "MiB": round(parent["memory"] / 2**20),
            "loaded": len(parent["loaded"]),
        }
        for parent in parents()
    ]
    columns = ["pid", "since", "kernels", "forked", "MiB", "loaded"]
    print_rows(rows, columns, json, empty="No warm parent runs. The first warm kernel starts one.")


@kernel.command("stop")
def kernel_stop() -> None:
    """Stop these processes; kernels that were forked from them go on."""
    from ..pipelines.kernels import stop_parents

    print(f"Stopped {stop_parents()}.")


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, where things live, what is wrong and how to mend it."""
    from ..doctor import examine
    from ..terminal import print_rows

    findings = examine()
    print_rows([vars(finding) for finding in findings], ["what", "state", "found", "do"], json)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
