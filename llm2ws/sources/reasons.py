"""Why an answer ended, in the words of Chat Completions for every API."""

from __future__ import annotations

__all__ = ["NO_REASONS", "REASONS", "is_failure", "reason_of"]

NO_REASONS = frozenset(("", "none", "null"))  # While there is none, some servers write so as a text.

# Words of servers, in lower case. A word that is not here is passed on as it is.
_REASONS = {
    **dict.fromkeys(
        (
            *("complete", "completed", "end_of_text", "end_turn", "endoftext", "eos", "eos_token", "finished", "normal"),
            *("stop_sequence", "stop_word", "true", "word"),
        ),
        "stop",
    ),
    **dict.fromkeys(
        (
            *("limit", "max_length", "max_new_tokens", "max_output", "max_output_tokens", "max_tokens", "model_length"),
            *("model_context_window_exceeded", "token_limit"),
        ),
        "length",
    ),
    **dict.fromkeys(
        ("blocklist", "content_filtered", "error_toxic", "prohibited_content", "refusal", "safety", "sensitive", "spii"),
        "content_filter",
    ),
    **dict.fromkeys(("tool_call", "tool_use"), "tool_calls"),
}
# The reasons of Chat Completions.
REASONS = frozenset(("content_filter", "function_call", "length", "stop", "tool_calls"))

# The server gave up. Among them are DeepSeek's word for a full server, vLLM's for a dropped request and GLM's for its network.
_FAILURES = frozenset(
    (
        *("abort", "aborted", "cancelled", "canceled", "error", "error_limit", "failed", "failure"),
        *("insufficient_system_resource", "internal_error", "malformed_function_call", "network_error"),
        *("server_error", "timeout", "user_cancel"),
    )
)


def reason_of(word: str) -> str:
    """Return the reason that a server's word stands for, the word itself if it is unknown."""
    lower = word.lower()
    return lower if lower in REASONS else _REASONS.get(lower, word)


def is_failure(word: str) -> bool:
    """Return whether a server's word says that it gave up."""
    return word.lower() in _FAILURES
