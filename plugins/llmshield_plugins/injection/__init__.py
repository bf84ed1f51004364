"""injection: find prompt injections and jailbreaks in any disguise, leave honest text alone.

Every text of a call is read in all the forms that a model could read: look-alike letters, invisible and tag
characters, escapes, encodings up to three deep, mirror writing and simple ciphers, markup taken out, letters
spaced or glued, and texts joined over parts and messages. Signatures (re2 patterns with examples) are matched in
each form, and a small trained model scores it. What is forwarded is never altered, unless `wrap`,
`strip` or `canary` asks for it.

Settings:

| setting | default | meaning |
|---|---|---|
| `scan` | `[user, tool]` | whose texts are judged: `system`, `user`, `assistant`, `tool` (definitions, names, arguments, results), `output` (the reply) |
| `view` | `conversation` | `last_turn`: of the conversation only what came after the last answer is judged |
| `block_at` | 0.90 | score from which a call is refused |
| `flag_at` | 0.60 | score from which it is reported |
| `action` | `block` | what happens from `block_at` on: `block`; `flag` (go on); `answer` (reply with `answer`, ask nobody); `wrap` (go on with the text in a frame; user and tool only) |
| `answer` | "I can't help with that." | the fixed reply of `action: answer` |
| `roles` | `{}` | `block_at`, `flag_at` and `action` of single roles |
| `wrap` | `[]` | `user`, `tool`: their texts always go out in a frame: a random mark of this call on both sides, and in front of it what comes between them is data and gives no orders. Names, definitions and arguments of tools stay as they are |
| `strip` | `[]` | roles whose texts lose hidden characters (tags, zero-width, bidi, selectors) before they go out |
| `limits` | none | `text`, `user`, `tool`, `total`: characters at most; a longer text is refused |
| `fields` | `[]` | validators for single places of the request: `{at: /company, pattern, max_length, lines, control_characters}`; `*` in `at` is any one step |
| `canary` | false | a random word of this process is put into the system prompt and looked for in every form of the reply |
| `repeat` | 0 | a reply that repeats so many words of the system prompt in a row is stopped; 0: not looked for |
| `links` | none | `hosts` (globs), `images: block`, `links: flag` (`block`, `flag`, `allow`): addresses in a reply at other hosts |
| `engines` | `[]` | further opinions: `{onnx: {path: ...}}`, `{judge: {provider, model}}`; `ask: doubtful` or `always`, `block_at`, `flag_at`, `timeout` |
| `deny` | `[]` | literal texts that are refused, in any case and any form |
| `allow` | `[]` | literal texts that are read over, in any case and any form |
| `families` | `{}` | per family: `mode: enforce \\| monitor \\| disabled`, `weight: 0..1` on its scores |
| `signatures` | `[]` | your own: `{id, pattern, score, family}`; re2, case does not matter |
| `budget` | 65536 + 24 per character | characters that the forms of one text may have; `score` (0.60) is what an exhausted budget counts |

Families: `instruction_override`, `prompt_extraction`, `template_breakout`, `roleplay_jailbreak`,
`policy_puppetry`, `tool_injection`, `exfiltration`, `encoded_payload`; besides `deny`, `learned` (the trained scorer: a
linear model over words and pairs of words, English), `engine`, `prompt_leak` (the canary) and `unscanned`. The names
are what reports, metrics and messages carry; the text itself is in none of them.

Hooks: pre_request; post_response (hangs filters on the reply when `output` is in `scan`, or `links` or `repeat` is set).

Replies are judged in overlapping windows of 2,048 characters, 1,024 apart, so that a stream and a whole reply get
the same verdict, and every 16 characters for what is readable without decoding. At most 64 characters are held
back: of a match longer than that the beginning is out when the stream is stopped.

Engines take longer than a hook may; the call is held for them, at most for their `timeout`. A judge is asked through the
policy's provider, reserved and paid like any call.

Monitor mode: everything is judged and counted, nothing is refused or altered, and no engine is asked.

It can't find what has no form: paraphrase, persuasion, and a plain order in a tool's result that says nothing
about other orders. Text about attacks passes when the attack stands in quotation marks.

Example:

    plugins:
      - use: injection
        scan: [user, tool, output]
        deny: ["project bluebird"]
        families: {roleplay_jailbreak: {mode: monitor}}
"""

from .plugin import Injection

__all__ = ["Injection"]
