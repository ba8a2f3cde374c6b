"""The machinery of models, as data: what chat templates, reasoning and tool calls look like when they leak into the text.

Names are known by their shape, since every model has its own: what holds "think" encloses a thought, what holds "tool_call" a
call, in angle brackets, between bars, or in capitals and square brackets.
"""

from __future__ import annotations

import re
from typing import Final

from .construct import beginnings, construct

__all__ = ["CALLS", "CLOSES", "MACHINERY", "OPENING", "RAW_TAGS", "THINKS"]

# Of a name in small letters: what it encloses is a thought, or a call of a tool.
THINKS: Final = re.compile(
    r"think|thought|reasoning|reflection|scratch_?pad|monologue|(?:^|[_:.-])cot(?:$|[_:.-])|^analysis$|chain_of_"
)
CALLS: Final = re.compile(
    r"(?:^|[_:.-])(?:tools?|functions?|invoke)(?:$|[_:.-])|(?:tool|function)_?(?:calls?|code|outputs?|responses?|results?|use)"
    r"|artifact|python_tag|action_?start|start_?action"
)
# Of a special token: it closes something, or separates.
CLOSES: Final = re.compile(r"^/|(?:^|_)(?:end|sep|stop|eo[a-z]{1,2})(?:$|_)")

# Elements of HTML whose content is not text.
RAW_TAGS: Final = frozenset({"script", "style", "svg", "template"})

# What stands before each message of gpt-oss, in its "harmony" format: who speaks, to whom, and on which channel.
_HEADER: Final = r"(?:<\|start\|>[^<>\n]{0,80})?(?:<\|channel\|>[^<>\n]{0,80})?(?:<\|constrain\|>[^<>\n]{0,40})?"
_SPECIAL: Final = r"[\w /▁.:\"-]{1,40}"
_NAME: Final = r"(?:tool|func|invo|thin|thou|reas|mini|antm|scra)"

MACHINERY: Final = (
    construct("thought", "◁", "think", "◁think▷", beginnings("◁think▷"), "may be a thought"),
    construct(
        "mark",
        "[",
        "think html",
        r"\[(?P<name>/?[A-Z][A-Z_]{2,24})\]",
        r"\[(?:/?(?:[A-Z][A-Z_]{0,24})?)?\Z",
        "may be a mark of a template",
    ),
    construct(
        "header", "<", "think", rf"{_HEADER}<\|message\|>", rf"{_HEADER}(?:<(?:\|[a-z]{{0,9}}\|?)?)?\Z", "a message may begin"
    ),
    construct(
        "channel",
        "<",
        "think",
        r"<\|channel>(?P<name>\w{1,20})(?=\s)",
        r"<(?:\|\w{0,7}|\|channel>\w{0,20})?\Z",
        "a message may begin",
    ),
    construct(  # Who speaks, in the templates of Llama 3, Granite, ChatML and Gemma.
        "spaced",
        "<",
        "html",
        r"<\|start_(header_id|of_role)\|>[^<>\n]{0,40}<\|end_\1\|>|<(?:\|im_start\||start_of_turn|\|turn)>\w{1,20}(?=\r?\n)",
        r"<(?:\|(?:\w{0,20}\|?|start_(?:header_id|of_role)\|>[^<>\n]{0,40}(?:<[|\w]{0,20})?|(?:im_start\||turn)>\w{0,20}\r?)"
        r"|s[a-z_]{0,12}|start_of_turn>\w{0,20}\r?)?\Z",
        "a message may begin",
    ),
    construct(
        "system",
        "<",
        "html",
        r"<<(?P<name>/?[A-Z]{3,9})>>",
        r"<(?:<(?:/?(?:[A-Z]{0,9}>?)?)?)?\Z",
        "may be a mark of a template",
    ),
    construct(  # DeepSeek's tags.
        "marked_tag",
        "<",
        "html",
        r"<(?P<close>/?)[|｜]{1,2}\w{1,20}[|｜]{1,2}(?P<name>[a-z]\w{1,40})(?:[ \t][^<>\n]{0,150})?>",
        r"<(?:/?(?:[|｜]{1,2}(?:\w{1,20}(?:[|｜]{1,2}(?:[a-z]\w{0,40}(?:[ \t][^<>\n]{0,150})?)?)?)?)?)?\Z",
        "may be a tag",
    ),
    construct(
        "token",
        "<",
        "html think",
        rf"<[|｜](?P<token>{_SPECIAL})[|｜]?>|<(?P<after>/?[\w▁]{{1,40}})[|｜]>",
        rf"<(?:[|｜](?:{_SPECIAL}[|｜]?)?|/?(?:[\w▁]{{1,40}}[|｜]?)?)?\Z",
        "may be a tag",
    ),
    construct(  # What was cut off at the end of the text.
        "removed",
        "<",
        "html think",
        rf"<(?:/?[|｜][\w▁ /|｜:=\"{{.-]{{0,100}}|/?{_NAME}[\w:.-]{{0,40}}(?:[ =][^<>\n]{{0,100}})?)\Z",
        rf"<(?:/?(?:[|｜][\w▁ /|｜:=\"{{.-]{{0,100}}|{_NAME}[\w:.-]{{0,40}}(?:[ =][^<>\n]{{0,100}})?|[a-z]{{0,3}})?)\Z",
        "may be a tag",
    ),
)

_KEYS: Final = r"(?:name|function|tool|type|action|tool_name)"
_ARGUMENTS: Final = r"(?:arguments|parameters|args|input|function|action_input|tool_input)"

# What only the beginning of an answer may be: gpt-oss, decoded without its special tokens; a role; a call that is bare JSON.
OPENING: Final = (
    construct(
        "bare_channel",
        "a",
        "think",
        r"(?:analysis|assistantanalysis)(?=[A-Z\"“'])|assistantfinal(?=[A-Z\"“'])|assistant(?=\r?\n)",
        rf"{beginnings('analysis0')}|{beginnings('assistantanalysis0')}|{beginnings('assistantfinal0')}|assistant\r?\Z",
        "a message may begin",
    ),
    construct(
        "bare_call",
        "f[{",
        "html",
        rf"functools(?=\[)|(?:\[\s{{0,9}})?\{{\s{{0,9}}\"{_KEYS}\"\s{{0,3}}:\s{{0,3}}\"[^\"\n]{{0,60}}\"\s{{0,3}},\s{{0,9}}\"{_ARGUMENTS}\"\s{{0,3}}:",
        rf"{beginnings('functools[')}|\[\s{{0,9}}\Z|(?:\[\s{{0,9}})?\{{[^}}]{{0,160}}\Z",
        "may be a call",
    ),
)
