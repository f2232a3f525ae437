"""What a server says of itself at `/metrics`."""

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
Measured = dict[tuple[str, Labels], float]


def read(text: str) -> Measured:
    """Every series by its name and its labels, without the process."""
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "process"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Measured, name: str, **labels: str) -> float:
    """One of them."""
    return found[name, tuple(sorted(labels.items()))]
