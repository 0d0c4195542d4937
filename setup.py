"""Build hook: generates the protobuf stubs, so that a clean clone installs with no manual step.

Everything else about the package stands in pyproject.toml.
"""

from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
PACKAGE = "orchestrator_proto"
STUBS = ROOT / "proto" / "gen" / PACKAGE


def generate_stubs() -> None:
    """Runs protoc over proto/*.proto into proto/gen/orchestrator_proto, an importable package."""
    from grpc_tools import protoc

    sources = sorted((ROOT / "proto").glob("*.proto"))
    STUBS.mkdir(parents=True, exist_ok=True)
    out = STUBS.parent
    arguments = [
        "protoc",
        f"-I{PACKAGE}={ROOT / 'proto'}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        *(f"{PACKAGE}/{source.name}" for source in sources),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed: see the messages above")
    (STUBS / "__init__.py").write_text('"""Stubs generated from proto/*.proto. Never edited, never committed."""\n')
    (STUBS / "py.typed").touch()


class BuildWithStubs(build_py):
    """build_py that generates the stubs first; serves wheels and editable installs alike."""

    def run(self) -> None:
        generate_stubs()
        super().run()


class GenerateStubs(Command):
    """`python setup.py proto_gen`, which scripts/proto-gen.sh calls."""

    description = "generate the protobuf stubs"
    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self) -> None:
        """Nothing to set."""

    def finalize_options(self) -> None:
        """Nothing to check."""

    def run(self) -> None:
        generate_stubs()


if __name__ == "__main__":
    # setuptools looks for the folders of all packages before it builds anything.
    STUBS.mkdir(parents=True, exist_ok=True)
    setup(cmdclass={"build_py": BuildWithStubs, "proto_gen": GenerateStubs})
