"""Random Jinja sources for `template_fuzz`: a grammar that leans to what hurts, and mutations.

Everything is drawn from the `random.Random` that is passed in, so a case is its seed.
"""

import re
from random import Random

NAMES = (
    *("messages", "add_generation_prompt", "bos_token", "eos_token", "system", "user", "assistant"),
    *("tools", "documents", "m", "message", "loop", "ns", "x", "nobody", "self", "caller"),
    *("range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"),
    *("varargs", "kwargs", "m.content", "m['role']", "loop.index", "messages[0]['content']"),
)
ATTRIBUTES = (
    *("content", "role", "__class__", "__mro__", "__globals__", "__init__", "__subclasses__()"),
    *("mro()", "format", "format_map", "join", "replace", "items()", "append", "f_globals", "n"),
    *("gi_frame", "cr_frame", "func_globals", "__getattribute__", "_environment", "environment"),
    *("encode()", "ljust(9999999999)", "zfill(999999999)", "center(99999999)", "previtem"),
    *("expandtabs(999999999)", "translate({})", "split('')", "update", "cycle", "length", "keys()"),
)
FILTERS = (
    *("trim", "tojson", "tojson(indent=9999999)", "join(messages)", "join('x' * 999999)", "list"),
    *("length", "upper", "attr('__class__')", "map(attribute='__class__')", "map('upper')", "sum"),
    *("format", "format(1)", "replace('', 'xxxxxxxxxx')", "replace('x', x)", "reverse", "string"),
    *("batch(3)", "slice(9999999999)", "center(999999999)", "indent(999999999)", "wordwrap(1)"),
    *("urlize", "pprint", "xmlattr", "groupby('role')", "dictsort", "sort", "unique", "default(x)"),
    *("selectattr('role', 'equalto', 'user')", "rejectattr('nobody')", "random", "safe", "first"),
    *("int", "int(base=99)", "float", "round(999999999)", "filesizeformat", "striptags", "escape"),
    *("sum(start=[])", "map('batch', 1)", "nothing", "items", "min", "max", "abs", "truncate(1)"),
    *("wordcount", "title", "urlencode", "last", "select", "reject", "count", "forceescape"),
)
TESTS = (
    *("defined", "none", "string", "mapping", "iterable", "sameas x", "divisibleby 0", "in x"),
    *("filter('upper')", "test('odd')", "odd", "eq 1", "lt 'x'", "sequence", "callable", "nothing"),
)
LITERALS = (
    *("0", "1", "-1", "99999", "999999999999", "9" * 400, "1e308", "1e999", "1_000", "0x1f"),
    *("''", "'x'", "'\\n'", "'%s %d'", "'%99999999d'", "'{0.__class__}'", "'{:>999999999}'"),
    *("'é🎉\u202e'", "'<|im_end|>'", "true", "none", "[]", "{}", "()", "'\\x00'", "'\ud800'"),
    *("'assistant'", "'user'", "'system'", "'x' * 999", "'\\ue0000.0\\ue001'"),
)
BINARY = ("+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "in", "not in", "and", "or")
NOISE = ("{%", "%}", "{{", "}}", "{#", "#}", "-%}", "{%-", "|", "'", "\\", "\x00", "\u202e", "\n")


def expression(chance: Random, depth: int = 0) -> str:  # noqa: C901 - one case for each form
    """Draw an expression."""
    if depth > 4 or chance.random() < 0.25:
        return chance.choice(NAMES if chance.random() < 0.6 else LITERALS)

    def part() -> str:
        return expression(chance, depth + 1)

    match chance.randrange(11):
        case 0 | 1:
            return f"({part()} {chance.choice(BINARY)} {part()})"
        case 2:
            return f"{part()}|{chance.choice(FILTERS)}"
        case 3:
            return f"{part()}.{chance.choice(ATTRIBUTES)}"
        case 4:
            return f"{part()}[{part()}]"
        case 5:
            return f"{part()}[{part()}:{part()}:{part()}]"
        case 6:
            return f"{part()}({part()}, {part()})" if depth else f"range({part()})"
        case 7:
            return f"({part()} if {part()} else {part()})"
        case 8:
            return f"({part()} is {chance.choice(('', 'not '))}{chance.choice(TESTS)})"
        case 9:
            return f"[{part()}, {part()}]"
        case _:
            return f"{{{part()}: {part()}}}"


def statement(chance: Random, depth: int = 0) -> str:  # noqa: C901 - one case for each form
    """Draw text, an output, or a block with its body."""
    if depth > 5 or chance.random() < 0.3:
        return chance.choice(("x", "\n", "<|im_end|>", f"{{{{ {expression(chance)} }}}}"))

    def body() -> str:
        return "".join(statement(chance, depth + 1) for _ in range(chance.randrange(1, 4)))

    value = expression(chance, 2)
    match chance.randrange(14):
        case 0 | 1:
            return f"{{% for m in {value} %}}{body()}{{% endfor %}}"
        case 2:
            return f"{{% for m in range(99999) %}}{body()}{{% endfor %}}"
        case 3:
            return (
                f"{{% for m in messages recursive %}}{body()}{{{{ loop({value}) }}}}{{% endfor %}}"
            )
        case 4:
            return f"{{% if {value} %}}{body()}{{% else %}}{body()}{{% endif %}}"
        case 5:
            return f"{{% set x = {value} %}}"
        case 6:
            return f"{{% set ns = namespace(n={value}) %}}{{% set ns.n = {expression(chance)} %}}"
        case 7:
            grown = chance.choice(
                ("ns.n ~ ns.n", "ns.n + ns.n", "[ns.n, ns.n]", "{1: ns.n, 2: ns.n}")
            )
            return (
                "{% set ns = namespace(n='x') %}{% for m in range(99) %}"
                f"{{% set ns.n = {grown} %}}{{% endfor %}}{{{{ {chance.choice(('ns.n', '1'))} }}}}"
            )
        case 8:
            return (
                f"{{% macro q(a, b={value}) %}}{body()}{{{{ q(a) }}}}{{% endmacro %}}{{{{ q(1) }}}}"
            )
        case 9:
            return f"{{% call q({value}) %}}{body()}{{% endcall %}}"
        case 10:
            return f"{{% filter {chance.choice(FILTERS)} %}}{body()}{{% endfilter %}}"
        case 11:
            tag = chance.choice(("include", "import", "extends", "from"))
            return f"{{% {tag} {value} {chance.choice(('', 'as q', 'import q'))} %}}"
        case 12:
            return f"{{% set x %}}{body()}{{% endset %}}{{% generation %}}x{{% endgeneration %}}"
        case _:
            return f"{{% block b{depth} %}}{body()}{{% endblock %}}" + chance.choice(
                ("", "{% break %}")
            )


def random_source(chance: Random) -> str:
    """Draw a whole template; some of it looks at the chat, so that a trial cannot see all."""
    body = "".join(statement(chance) for _ in range(chance.randrange(1, 5)))
    if chance.random() < 0.3:
        # passes the trial's short chats, and does its worst on others
        hidden = chance.choice(("messages|length > 9", "messages[0].content|length > 99"))
        body = f"{{% if {hidden} %}}{body}{{% endif %}}" + chance.choice(GOOD)
    return body


GOOD = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "{{ user }}[/INST]{{ assistant }}</s>",
)


def mutated(chance: Random, seeds: list[str]) -> str:
    """Change a good template in a few places."""
    source = chance.choice(seeds)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(source) + 1)
        to = min(len(source), at + chance.randrange(1, 60))
        match chance.randrange(9):
            case 0:
                source = source[:at] + source[to:]
            case 1:
                source = source[:at] + source[at:to] * chance.choice((2, 3, 40, 900)) + source[to:]
            case 2:
                other = chance.choice(seeds)
                source = source[:at] + other[chance.randrange(len(other)) :]
            case 3:
                source = source[:at] + chance.choice(NOISE) + source[at:]
            case 4:
                source = source[:at] + statement(chance, 3) + source[at:]
            case 5:
                source = _swap(
                    source, chance, r"\{\{-?.*?-?\}\}", f"{{{{ {expression(chance)} }}}}"
                )
            case 6:
                source = _swap(source, chance, r"message\['\w+'\]|\w+_token", expression(chance, 2))
            case 7:
                source = _swap(source, chance, r"\{%-?.*?-?%\}", statement(chance, 3))
            case _:
                many = chance.choice((50, 300, 3000))
                source = (
                    chance.choice(("{% if 1 %}", "{{ " + "(" * 30, "{% for m in 'x' %}")) * many
                    + source
                )
    return source


def _swap(source: str, chance: Random, pattern: str, new: str) -> str:
    places = list(re.finditer(pattern, source))
    if not places:
        return source + new
    place = chance.choice(places)
    return source[: place.start()] + new + source[place.end() :]
