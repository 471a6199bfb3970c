# `just` lists the parts of the checks, and `just ci lints docs` runs two of them.
list:
    @bash .ci/run --list

ci *parts:
    bash .ci/run {{parts}}
