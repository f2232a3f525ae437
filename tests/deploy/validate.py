"""
Validates the files of a delivery with the tools of `.venv-deploy`, whose Python runs this.

`validate.py compose` reads a compose file as JSON, with its variables put in, and prints the names of its
services; `validate.py helm CHART` reads values of a chart and prints what it renders to and what lint says.
"""

import json
import sys
from typing import Any


def compose() -> None:
    """Read standard input, every field of which must be one of the Compose specification's."""
    import yaml  # noqa: PLC0415 - only of that environment
    from compose_spec import PyCompose  # noqa: PLC0415

    document = PyCompose.from_yaml(yaml.safe_dump(json.load(sys.stdin)))
    document.validate()
    print(json.dumps(sorted(document.service_names())))  # noqa: T201 - what is asked for


def chart(path: str) -> None:
    """Lint a chart, render it, and hold its manifests against the schemas of Kubernetes."""
    import helm_python as helm  # noqa: PLC0415
    import kubernetes_validate  # noqa: PLC0415
    import yaml  # noqa: PLC0415

    values: dict[str, Any] = json.load(sys.stdin)
    version = values.pop("kubernetesVersion")
    with helm.Chart.load(path) as loaded:
        loaded.validate_schema(values)
        rendered = loaded.render(values, name="release", namespace="prod")
    manifests = [
        manifest
        for name, text in sorted(rendered.items())
        if not name.endswith("NOTES.txt")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    found = helm.lint(path, values, strict=True)
    # That it has no icon is information.
    lint = found["errors"] + [one for one in found["messages"] if one["severity"] != 1]
    print(json.dumps({"manifests": manifests, "lint": lint}))  # noqa: T201 - what is asked for


if __name__ == "__main__":
    if sys.argv[1] == "compose":
        compose()
    else:
        chart(sys.argv[2])
