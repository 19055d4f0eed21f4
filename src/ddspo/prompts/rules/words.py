"""Closed classes, attributes, relations and style words of English prompts; nouns and verbs are in `lexicon`."""

from __future__ import annotations

DETERMINERS = frozenset(
    "a an the this that these those his her its their our my your some each every another both no".split()
)
PRONOUNS = frozenset(
    "i you he she it we they me him us them who which what someone somebody something anyone everyone everything one's "
    "themselves himself herself itself myself yourself each-other".split()
)
AUXILIARIES = frozenset(
    "is are was were be been being am has have had do does did can could will would may might must".split()
)
CONJUNCTIONS = frozenset("and or but while as when where if because so than".split())
ADVERBS = frozenset(
    "very too just not also never always together away up down out back forward about around here there "
    "underfoot outside inside upside ahead apart aside along before after again almost still ever perfectly only even "
    "more most less least forth overhead nearby".split()
)
PREPOSITIONS = frozenset(
    "of in on at by with from to into onto over under above below behind beside near next between among through across "
    "along alongside around against inside outside beneath underneath beyond during without within toward towards off "
    "for about amid like atop past before after until up down as per via".split()
)

NUMBERS = {
    word: value
    for value, word in enumerate(
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty".split(),
        1,
    )
}
NUMBER_WORDS = {value: word for word, value in NUMBERS.items()}

#: attribute class -> words; a class with opposites or alternatives lets an attribute be changed, not only dropped
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "color": tuple(
        "red green blue yellow orange purple pink brown black white gray grey gold golden silver beige cyan magenta "
        "turquoise teal violet crimson scarlet maroon navy indigo lavender cream tan bronze ivory amber".split()
    ),
    "material": tuple(
        "wooden metal metallic plastic glass leather fabric rubber cotton silk velvet wool woolen paper cardboard "
        "stone "
        "marble concrete ceramic porcelain brick steel iron copper brass crystal denim lace linen clay bamboo "
        "stainless "
        "chrome granite".split()
    ),
    "shape": tuple(
        "round square circular rectangular triangular oval cubic cylindrical spherical pyramidal conical pentagonal "
        "hexagonal octagonal oblong diamond teardrop crescent heart-shaped star-shaped".split()
    ),
    "texture": tuple(
        "smooth rough fluffy bumpy shiny matte striped checkered spotted dotted furry fuzzy prickly spiky jagged "
        "glossy "
        "polished plaid floral sandy tiled textured".split()
    ),
    "size": tuple("small tiny little big large huge giant tall short long wide narrow thick thin massive".split()),
}
ATTRIBUTE_CLASS = {word: name for name, words in ATTRIBUTES.items() for word in words}

OPPOSITES: dict[str, str] = {}
for _pair in (
    "small/large tiny/huge little/big tall/short long/short wide/narrow thick/thin giant/tiny massive/tiny hot/cold "
    "warm/cool bright/dark soft/hard wet/dry new/old young/old clean/dirty heavy/light open/closed empty/full "
    "sharp/dull "
    "sweet/sour smooth/rough shiny/matte happy/sad fresh/rotten deep/shallow loud/quiet fast/slow modern/ancient "
    "light/dark crunchy/soggy calm/stormy beautiful/ugly straight/curved clear/murky delicate/sturdy"
).split():
    _one, _other = _pair.split("/")
    OPPOSITES.setdefault(_one, _other)
    OPPOSITES.setdefault(_other, _one)

ADJECTIVES = (
    frozenset(ATTRIBUTE_CLASS)
    | frozenset(OPPOSITES)
    | frozenset(
        "high low far colorful sleek cozy delicate vibrant intricate crunchy crisp natural juicy stunning serene "
        "breathtaking elegant "
        "stylish unique perfect comfortable rugged sturdy plush thrilling rocky icy bold luxurious masterful scenic "
        "tropical majestic graceful lively piercing savory savoury creamy tangy pungent earthy therapeutic "
        "creative grand "
        "crowded bustling lush arid endless busy gentle dusty rusty crusty leafy grassy snowy sunny cloudy stormy "
        "rainy foggy "
        "misty hazy chilly frosty damp moist sticky slimy slippery creepy spooky cute lovely pretty handsome adorable "
        "friendly angry tired sleepy hungry thirsty lazy playful curious brave strong weak rich poor fierce wild tame "
        "old-fashioned "
        "ancient antique vintage retro futuristic modern contemporary traditional classic royal imperial gothic "
        "baroque "
        "magical mystical mysterious fantastic epic dramatic cinematic realistic surreal abstract minimal minimalist "
        "ornate "
        "decorative translucent transparent opaque clear hollow solid flat curved twisted winding tangled steep "
        "distant "
        "remote urban rural suburban industrial medieval victorian asian african european american japanese "
        "chinese french "
        "electric electronic digital mechanical robotic cybernetic cyberpunk steampunk neon glowing shimmering "
        "sparkling "
        "gleaming glittering aromatic fragrant delicious tasty spicy bitter salty fiery refreshing relaxing soothing "
        "peaceful "
        "quiet loud noisy chaotic thorny gnarled bare barren fertile healthy sick raw ripe rotten fresh frozen melted "
        "hardy "
        "sore achy harsh brittle steamy glistening striking sprawling imposing enduring fleeting tantalizing skilled "
        "mesmerizing sophisticated stained cluttered aged unparalleled "
        "blunt pointy rounded angular geometric symmetrical asymmetrical edible portable wearable "
        "potted parked "
        "framed mounted worn torn broken cracked chipped faded weathered abandoned deserted furnished decorated "
        "covered "
        "festive cheerful gloomy gleeful proud famous favorite favourite special different various several many few "
        "multiple "
        "aerodynamic dynamic dazzling towering whimsical plump prickly rustic exotic domestic wildlife-rich "
        "velvety silky "
        "glassy hairy feathery bushy dense sparse heavy lightweight oversized miniature mini enormous gigantic "
        "colossal "
        "vast grandiose hearty fluffy imaginary magnifying remote-controlled moonlit sunlit candlelit multicolored "
        "multi-colored pastel pale bright dim vivid muted rainbow-colored left right upper lower front middle nearby "
        "blooming flowering flickering floating flying running walking standing sitting crystal-clear decadent ".split()
    )
)

#: phrase -> (its opposite or None, what else it may be changed to). Longest match wins.
RELATIONS: dict[str, tuple[str | None, tuple[str, ...]]] = {}
_SIDES = ("above", "below", "in front of", "behind", "to the left of", "to the right of")


def _relation(one: str, other: str, *changes: str) -> None:
    RELATIONS[one] = (other, changes or tuple(side for side in _SIDES if side not in (one, other)))
    RELATIONS[other] = (one, RELATIONS[one][1])


for _left in ("to the left of", "on the left of", "on the left side of", "at the left of", "left of"):
    _relation(_left, _left.replace("left", "right"), "above", "below", "in front of", "behind")
_relation("above", "below", "to the left of", "to the right of", "inside")
_relation("over", "under", "next to", "behind")
_relation("on top of", "underneath", "next to", "behind", "in front of")
_relation("on the top of", "on the bottom of", "next to", "behind", "in front of")
_relation("in front of", "behind", "above", "below", "to the left of", "to the right of")
_relation("inside", "outside", "on top of", "behind")
RELATIONS["beneath"] = ("above", ("next to", "behind"))
RELATIONS["hidden by"] = (None, ("in front of", "above", "to the left of"))
RELATIONS["inside of"] = ("outside of", ("on top of", "behind"))
for _near in ("next to", "beside", "near", "on side of", "on the side of", "by the side of", "close to"):
    RELATIONS[_near] = ("far away from", ("on top of", "inside"))
#: relations in which both sides play the same part: swapping the objects says nothing new
SYMMETRIC = frozenset(
    [
        "next to",
        "beside",
        "near",
        "on side of",
        "on the side of",
        "by the side of",
        "close to",
        "with",
        "between",
        "among",
    ]
)
#: spatial as well, without an opposite
PLACES = frozenset("on in under onto into at against across around through between atop along off".split())

#: nouns that measure another one: 'a cup of tea' loses its sense without its complement
MEASURES = frozenset(
    "pair couple lot variety set number group bunch kind type sort piece slice glass cup bowl bottle box bag can jar "
    "plate bouquet collection range series symphony side top bottom front back middle edge center part view photo "
    "picture drop drops touch sense mix source way spray stream bed pile stack row block "
    "herd flock swarm cluster loaf field sea".split()
)

#: counted nouns that are no things: '8 k', '35 mm'
UNITS = frozenset("k mm cm m km px fps p d ad bc am pm x kg degrees percent years hours minutes".split())
#: what everything is under or before: another place beside it says nothing ('sharing stories on the stars'); and what
#: 'over' joins in time only ('chatting over lunch')
BACKDROPS = frozenset(
    "sky skies sun moon star stars moonlight sunlight starlight horizon rain wind lunch dinner breakfast brunch meal "
    "coffee tea drinks time years hours night day weekend supervision construction".split()
)
#: -ing words that say what a thing is for: 'a shopping bag' is one noun, 'a smiling girl' is not
PURPOSES = frozenset(
    "shopping fishing sewing cutting washing rocking dining parking swimming boxing measuring dressing hiking walking "
    "running skipping writing baking cooking training sleeping skating skiing riding reading drinking frying mixing "
    "serving racing jumping climbing diving wedding watering knitting mailing watching waiting living camping "
    "hunting".split()
)
_ABSTRACT_ENDINGS = tuple("ness ship tion sion ance ence ity ism istry tude dom ncy".split())
_ABSTRACT = frozenset(
    "love pride joy ease grace care skill speed form function power strength style hope fear peace nature life time "
    "work fun delight design geometry energy passion focus adrenaline art wonder glory warmth flair health beauty "
    "wisdom knowledge courage sense touch taste feel symbol choice speech refinement luxury grandeur opulence".split()
)
#: of those with such endings what can be seen
_SEEN = frozenset(
    "station fountain kingdom ambulance entrance audience celebrity university city decoration illustration vegetation "
    "plantation invitation mansion fence lion stallion pavilion medallion cushion onion".split()
)


def is_abstract(noun: str) -> bool:
    """Whether a noun names nothing that a picture can show: 'with ease', 'a display of artistry'."""
    return noun in _ABSTRACT or (noun.endswith(_ABSTRACT_ENDINGS) and len(noun) > 5 and noun not in _SEEN)


#: pictures: 'a photo of', 'an oil painting of'
MEDIA = frozenset(
    "photo photograph picture image painting drawing sketch illustration rendering render poster wallpaper artwork "
    "portrait closeup close-up selfie snapshot screenshot watercolor cartoon print engraving etching mural".split()
)
#: words that make a comma segment a phrase about style or quality rather than content
STYLE_WORDS = frozenset(
    "artstation deviantart pinterest behance cgsociety octane unreal unity vray blender redshift cinema4d raytracing "
    "8k 4k 16k uhd hdr hd 1080p masterpiece photorealistic photorealism hyperrealistic hyperrealism ultrarealistic "
    "realism realistic detailed detail details intricate cinematic bokeh lens f/1.4 f/1.8 35mm 50mm 85mm nikon canon "
    "leica kodak polaroid film grain style aesthetic concept art artgerm rutkowski mucha wlop sakimichan ghibli pixar "
    "disney anime manga illustration painting drawing sketch render rendering rendered watercolor gouache lithograph "
    "sharp focus smooth lighting lit volumetric ambient studio photography photograph photo award-winning award "
    "trending composition symmetrical symmetry highres resolution quality matte vivid hd wallpaper engine focus depth "
    "digital vaporwave synthwave impressionist impressionism surrealism surrealistic baroque renaissance art-nouveau "
    "canvas minimalist dslr macro closeup close-up wide-angle shot angle tones palette greg".split()
)
