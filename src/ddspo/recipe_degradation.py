"""The part of a recipe that says how degraded prompts are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .recipe_base import Fraction, Positive, Section


class LanguageModel(Section):
    """The model that rewrites prompts, for degradation.method 'local_model' and 'server'."""

    name: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    """a Hugging Face id or folder (local_model), or the name under which the server knows it"""
    task: Literal["compositional", "aesthetic"] = "compositional"
    """'compositional': objects, attributes, relations, counts; 'aesthetic': light, color, sharpness, not the subject"""
    max_new_tokens: Positive = 400
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """0 switches sampling off (published: 0.7)"""
    batch_prompts: Positive = 16
    """local_model: prompts generated at once; memory, not mathematics"""
    device: str = "auto"
    """local_model: 'auto', 'cpu', 'cuda', 'cuda:1', ..."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """local_model: precision of the weights"""
    url: str = "http://127.0.0.1:8000/v1"
    """server: address of an OpenAI-compatible API, without '/chat/completions'"""
    token_variable: str = "OPENAI_API_KEY"
    """server: the environment variable that holds the token; the token itself never goes into a recipe"""
    concurrency: Positive = 8
    """server: requests under way at once"""
    requests_per_minute: Positive | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """server: seconds for one request"""
    attempts: Positive = 5
    """server: tries per prompt before it fails, with growing pauses between"""


class Degradation(Section):
    """How a degraded prompt is made from a prompt."""

    method: Literal["removal", "scenes", "rules", "local_model", "server"] = "scenes"
    """'removal' (random words), 'scenes' (clauses of tinyscenes prompts), 'rules' (grammatical edits of real prompts),
    'local_model' and 'server' (a language model through transformers or over HTTP)"""
    variants: Positive = 5
    """distinct degraded prompts per prompt, at most"""
    remove_low: Fraction = 0.4
    """removal: smallest share of words dropped (published: 0.4)"""
    remove_high: Fraction = 0.7
    """removal: largest share of words dropped (published: 0.7)"""
    remove_units: Literal["words", "content_words", "phrases"] = "words"
    """removal: what is dropped. 'words' as published; 'content_words' leaves articles and prepositions; 'phrases' drops
    whole noun phrases with their preposition"""
    keep_style: bool = False
    """removal: style phrases ('a photo of', 'oil painting', 'by ...') are never dropped"""
    kinds: tuple[str, ...] = ()
    """methods with several kinds of edit: use only these; empty means all"""
    tagger: Literal["words", "hanta", "spacy"] = "words"
    """rules: parts of speech from built-in word lists, or from HanTa (pip install 'ddspo[nlp]') or spaCy
    ('ddspo[spacy]')"""
    language_model: LanguageModel = LanguageModel()
    fallback: Literal["none", "rules"] = "none"
    """local_model and server: what to do with prompts for which no answer is usable"""
    min_text_distance: Fraction = 0.0
    """drop variants nearer to the prompt than this: 1 - (words in common, in order) / (words of the longer)"""
    min_embedding_distance: Annotated[float, Field(ge=0, le=2)] = 0.0
    """drop variants that the text encoder hardly tells from the prompt: 1 - cosine of their embeddings"""
    measure_embedding_distance: bool = False
    """record that distance without dropping anything, to choose a threshold; a threshold implies it"""

    @property
    def measures_embeddings(self) -> bool:
        """Whether the model's text encoder is needed."""
        return self.measure_embedding_distance or self.min_embedding_distance > 0

    @model_validator(mode="after")
    def _ordered(self) -> Degradation:
        if self.remove_low > self.remove_high:
            raise ValueError("remove_low must not exceed remove_high")
        return self
