"""What a language model is told to do: our own instructions and examples for the two tasks."""

from __future__ import annotations

import json
from typing import Any, Literal

Task = Literal["compositional", "aesthetic"]
Message = dict[str, str]

KINDS: dict[Task, tuple[str, ...]] = {
    "compositional": (
        "drop_object",
        "drop_attribute",
        "swap_attributes",
        "change_attribute",
        "change_relation",
        "change_count",
        "generalize_noun",
    ),
    "aesthetic": ("clarity", "light", "color", "sharpness", "composition"),
}

_COMPOSITIONAL = """You spoil prompts for a text-to-image model. Given one prompt, write up to {variants} spoiled \
prompts: each must describe a picture that is wrong for the original prompt in one definite way, and must still be a \
natural prompt.

One change per spoiled prompt, of one of these kinds:
- drop_object: leave out one of the things
- drop_attribute: leave out a color, material, texture, shape or size
- swap_attributes: let two things exchange their attributes
- change_attribute: say another color, material, texture, shape or size
- change_relation: say another position, or exchange who does what to whom
- change_count: say another number
- generalize_noun: say a wider word for a thing (an oak -> a tree)

Rules: use different kinds where the prompt allows it. Add no thing that the prompt does not have. Keep words about \
style, medium, artist and quality exactly as they are. Never repeat the prompt. If the prompt names nothing definite, \
give an empty list."""

_AESTHETIC = """You spoil the look of prompts for a text-to-image model. Given one prompt, write up to {variants} \
spoiled prompts: each must describe a picture of exactly the same subject that looks worse.

One or two changes per spoiled prompt, of one of these kinds:
- clarity: hazy, smeared, noisy, full of artifacts
- light: flat, harsh, too dark, burnt out
- color: faded, muddy, garish, with a color cast
- sharpness: out of focus, shaken, coarse
- composition: badly cropped, tilted, cluttered, off balance

Rules: keep every person, thing, action, place, number and attribute of the subject word for word. Replace or leave \
out words that praise the picture. Use the words of the medium: a photo is out of focus, a painting has clumsy \
brushwork, an illustration has uneven lines. Never repeat the prompt. If the prompt names no subject, give an empty \
list."""

_FORMAT = """
Answer with JSON only: {{"variants": [{{"text": "the spoiled prompt", "kind": "one of the kinds", "change": "what was \
changed, in a few words"}}]}}"""

_INSTRUCTIONS: dict[Task, str] = {"compositional": _COMPOSITIONAL, "aesthetic": _AESTHETIC}

Example = tuple[str, tuple[tuple[str, str, str], ...]]
_EXAMPLES: dict[Task, tuple[Example, ...]] = {
    "compositional": (
        (
            "a tin robot watering three blue tulips beside a wooden shed, watercolor",
            (
                (
                    "a tin robot watering five blue tulips beside a wooden shed, watercolor",
                    "change_count",
                    "three -> five",
                ),
                (
                    "a wooden robot watering three blue tulips beside a tin shed, watercolor",
                    "swap_attributes",
                    "tin <-> wooden",
                ),
                ("a tin robot beside a wooden shed, watercolor", "drop_object", "tulips left out"),
                (
                    "a tin robot watering three blue flowers beside a wooden shed, watercolor",
                    "generalize_noun",
                    "tulips -> flowers",
                ),
            ),
        ),
        (
            "an old fisherman sitting to the left of a sleeping dog",
            (
                (
                    "an old fisherman sitting to the right of a sleeping dog",
                    "change_relation",
                    "to the left of -> to the right of",
                ),
                ("a fisherman sitting to the left of a sleeping dog", "drop_attribute", "old left out"),
                (
                    "a sleeping fisherman sitting to the left of an old dog",
                    "swap_attributes",
                    "old <-> sleeping",
                ),
            ),
        ),
        ("beautiful, 8k, masterpiece", ()),
    ),
    "aesthetic": (
        (
            "a portrait photo of a baker holding a loaf, golden hour, crisp detail",
            (
                (
                    "a portrait photo of a baker holding a loaf, flat gray light, faces in shadow",
                    "light",
                    "golden hour -> flat gray light",
                ),
                (
                    "a portrait photo of a baker holding a loaf, out of focus, grainy",
                    "sharpness",
                    "crisp detail -> out of focus",
                ),
                (
                    "a portrait photo of a baker holding a loaf, tilted, half of the head cut off",
                    "composition",
                    "badly cropped",
                ),
            ),
        ),
        (
            "an oil painting of two ships in a storm, dramatic, rich colors",
            (
                (
                    "an oil painting of two ships in a storm, muddy colors, clumsy brushwork",
                    "color",
                    "rich colors -> muddy colors",
                ),
                (
                    "an oil painting of two ships in a storm, hazy, smeared contours",
                    "clarity",
                    "dramatic -> hazy, smeared",
                ),
            ),
        ),
    ),
}


def schema(task: Task) -> dict[str, Any]:
    """The JSON schema of an answer, for servers that can enforce one."""
    variant = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "kind": {"type": "string", "enum": list(KINDS[task])},
            "change": {"type": "string"},
        },
        "required": ["text", "kind", "change"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"variants": {"type": "array", "items": variant}},
        "required": ["variants"],
        "additionalProperties": False,
    }


def messages(task: Task, prompt: str, variants: int) -> list[Message]:
    """The conversation that asks for variants of `prompt`.

    The instructions open the first user turn, because not every chat template knows a system role.
    """
    head = _INSTRUCTIONS[task].format(variants=variants) + "\n" + _FORMAT.format() + "\n\n"
    turns: list[Message] = []
    for example, answers in _EXAMPLES[task]:
        rows = [{"text": text, "kind": kind, "change": change} for text, kind, change in answers]
        turns.append({"role": "user", "content": f"{head}Prompt: {example}"})
        turns.append({"role": "assistant", "content": json.dumps({"variants": rows}, ensure_ascii=False)})
        head = ""
    return [*turns, {"role": "user", "content": f"Prompt: {prompt}"}]
