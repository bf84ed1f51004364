"""tools: which tools a model may be offered and may call, and with what arguments, in both directions.

What no reading of texts can find, an order in a document that is worded like any other, does no harm where the tools
that it would need are not there. On the way out the names of the tools that a call offers are checked, and the calls
of tools in its history with their arguments; on the way back the calls that the model makes, whole or streamed,
before the client sees them.

Settings:

- `allow: []`: names of tools, as globs (`get_*`). Others are refused; empty: all are allowed that `deny` does not name.
- `deny: []`: names that are refused, whatever `allow` says. Case does not matter in either. Names are denied, and bound by
  `arguments`, with blanks around them, hidden characters and wide letters as well; where either is set, a name that mixes Latin
  letters with look-alikes (Cyrillic, Greek) is refused unless `allow` has it.
- `arguments: {TOOL: {PLACE: RULE}}`: rules for arguments of tools (names, or globs). PLACE is an argument's name, or a
  path such as `to`, `items/*/id` (`*`: every item of a list). A RULE has one or more of `pattern` (re2, the whole
  value), `one_of`, `min`, `max` (numbers), `max_length` (characters; default 4,096), and `forbid: true` (must not be
  there). A list or an object in the place of one value is refused; so are arguments of these tools that are no JSON object.
- `unlisted_arguments: allow`: `deny` refuses arguments of these tools that have no rule.
- `offered: deny`: what happens to a call that offers a tool that is not allowed: `deny` refuses it, `flag` reports it (the
  model's call of such a tool is refused either way).
- `action: block`: `flag` only reports.

Tools that the provider runs itself are known by their type: `web_search*`, `code_execution*`, `googleSearch`,
`computer*`; an MCP server's tools by their names where the call names them, and the server as `mcp:LABEL`.
Arguments are checked value by value. A value is held back in a stream until it is complete or longer than its
`max_length`; the values before it are out by then, but no client may run a call whose arguments never ended. An
argument that is missing is not noticed.

Monitor mode: everything is checked and counted, nothing is refused.

Hooks: pre_request; post_response (a filter on tool calls).

Example:

    plugins:
      - use: tools
        allow: ["search", "get_*", "send_email"]
        arguments:
          send_email:
            to: {pattern: '[^@ ]+@example\\.com'}
            attachments/*/name: {max_length: 80}
          get_price: {quantity: {min: 1, max: 100}, currency: {one_of: [EUR, USD]}}
"""

from .plugin import Tools

__all__ = ["Tools"]
