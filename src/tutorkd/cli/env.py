"""``tutorkd env``."""

from collections.abc import Sequence

from tutorkd.options.parser import OptionParser


def run(argv: Sequence[str]) -> int:
    OptionParser("env", "Prints the versions and the machine that results depend on.", [], {}, takes_recipe=False).read(
        argv
    )
    from tutorkd.runtime import describe  # which loads torch

    facts = describe()
    width = max(map(len, facts))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()))
    return 0
