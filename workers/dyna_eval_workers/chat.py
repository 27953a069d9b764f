"""Conversations as a chat model is prompted with them: through a chat template, mostly its tokenizer's."""

from __future__ import annotations

import datetime
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from dyna_eval.errors import PromptError, first_line

Messages = list[dict[str, str]]
"""A conversation: each message has a role ('system', 'user', 'assistant', ...) and its content."""

_NOW = datetime.datetime(2025, 1, 1)
_TIME_ASKED = re.compile(r"""strftime_now\(\s*(["'])(?P<format>[^"']*)\1\s*\)""")
_OF_TARGET, _OF_FILE = "the target's chat template", "the template of prompts.chat_template_file"
_NOT_VARIABLES = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"}


def messages_in(value: object) -> Messages | None:
    """Return the conversation up to what the model is to answer first; None where a cell holds none.

    A text is one message of the user, of a list of texts the first one is; a list of messages, each a mapping
    with role and content, is taken up to the first one of the assistant.
    """
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str):
        return [{"role": "user", "content": first}]
    if not isinstance(value, list):
        return None
    asked: Messages = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
            return None
        if role == "assistant":
            break
        if not isinstance(content := message.get("content"), str):
            return None
        asked.append({"role": role, "content": content})
    return asked or None


def renderer(
    tokenizer: Any, variables: Mapping[str, object], given: str | None = None
) -> Callable[[Messages], str]:
    """Return what puts messages into the tokenizer's chat template, up to where the model answers.

    `given` is a template to take instead. The texts hold their special tokens. A template that asks for the
    date is told the same one always: a prompt set is its tokens, and the sweep that was submitted yesterday
    should go on today. Raises PromptError where there is no template, or it does not name a variable; what is
    returned does so where the template refuses the messages.
    """
    whose = _OF_TARGET if given is None else _OF_FILE
    template = _at_one_time(_template_of(tokenizer) if given is None else given, whose)
    if not re.search(r"\bmessages\b", template):
        raise PromptError(f"{whose} never uses messages, so that all prompts would be alike; correct it")
    for name in variables:
        if name in _NOT_VARIABLES or not re.search(rf"\b{re.escape(name)}\b", template):
            raise PromptError(f"{whose} has no variable {name!r} that could be set")

    def render(messages: Messages) -> str:
        try:
            text = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True, **variables
            )
        except jinja2.TemplateSyntaxError as error:
            what = first_line(ValueError(error.message))
            raise PromptError(f"{whose} is not valid Jinja in line {error.lineno}: {what}") from error
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise PromptError(f"{whose} refuses it: {first_line(error)}") from error
        return str(text)

    return render


def _template_of(tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise PromptError(
            "the target's tokenizer has no chat template; leave out prompts.chat_template, name a template "
            "with prompts.chat_template_file, or take a target that was tuned for chats"
        )
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several, and none is the default
        raise PromptError(
            f"the target's tokenizer has no default chat template: {first_line(error)}"
        ) from error


def _at_one_time(template: str, whose: str) -> str:
    """Return a template whose calls of `strftime_now` are replaced by what they give at one fixed time."""
    fixed = _TIME_ASKED.sub(lambda call: repr(_NOW.strftime(call["format"])), template)
    if "strftime_now(" in fixed:
        raise PromptError(
            f"{whose} asks for the time in a format that it computes, so prompts would "
            "differ from day to day; write them as the model should see them, without prompts.chat_template"
        )
    return fixed
