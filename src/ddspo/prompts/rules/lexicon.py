"""Nouns by class, for generalizing and exchanging them, and verbs with their forms."""

from __future__ import annotations

from .inflect import plural, verb_forms

#: class name as it is spoken -> members. The class name is what a member generalizes to.
_CLASSES: dict[str, str] = {
    "animal": "bird fish insect dog cat horse cow sheep pig rabbit mouse bear elephant giraffe zebra lion tiger "
    "monkey fox wolf deer frog "
    "turtle camel goat donkey kangaroo koala panda squirrel rat hamster puppy kitten pony snake lizard crocodile "
    "dragon "
    "spider snail bat whale dolphin shark seal octopus dinosaur alpaca llama raccoon hedgehog otter leopard cheetah "
    "gorilla rhino hippo moose crab lobster tortoise buffalo bull calf lamb",
    "bird": "chicken duck swan owl eagle parrot penguin crow raven sparrow pigeon goose turkey peacock flamingo "
    "seagull "
    "rooster hen dove hawk robin hummingbird ostrich kingfisher",
    "insect": "bee butterfly ant beetle fly dragonfly moth ladybug grasshopper wasp mosquito",
    "fish": "goldfish salmon trout tuna koi clownfish",
    "person": "person man woman boy girl child baby kid teenager lady gentleman student teacher doctor nurse chef "
    "farmer artist "
    "musician dancer singer soldier knight king queen prince princess wizard witch astronaut pirate cowboy "
    "samurai ninja "
    "warrior monk pilot sailor worker policeman firefighter photographer scientist hiker traveler runner swimmer "
    "surfer "
    "cyclist skier snowboarder gardener carpenter painter writer bartender waiter shopper driver player barista "
    "conductor seamstress guitarist violinist mechanic referee bride groom clown goddess viking coworker owner "
    "customer",
    "vehicle": "car truck bus train bicycle motorcycle boat ship airplane plane helicopter van taxi bike scooter "
    "tractor "
    "ambulance spaceship submarine yacht canoe sailboat skateboard limousine tram jeep rocket carriage wagon kayak",
    "piece of furniture": "chair table desk sofa couch bed bench stool bookshelf shelf cabinet dresser wardrobe "
    "nightstand "
    "armchair bookcase cupboard ottoman crib throne",
    "appliance": "refrigerator microwave oven toaster drier stove dishwasher blender fan dryer sink toilet "
    "bathtub fridge",
    "device": "phone computer laptop television tv camera keyboard printer clock watch tablet radio speaker telescope "
    "microphone remote monitor lamp flashlight calculator robot",
    "fruit": "apple banana orange lemon pear peach strawberry grape watermelon pineapple cherry mango kiwi plum lime "
    "avocado papaya coconut blueberry raspberry apricot nectarine grapefruit fig",
    "vegetable": "carrot broccoli tomato potato onion cucumber eggplant pepper lettuce cabbage corn pumpkin mushroom "
    "zucchini squash radish celery spinach",
    "piece of food": "cake pizza sandwich hamburger bread cookie donut doughnut hotdog burger taco pie cheese egg "
    "steak soup salad "
    "pancake bagel toast pasta rice sushi shrimp bacon sausage cupcake croissant muffin chocolate popcorn cracker "
    "pastry waffle",
    "drink": "coffee tea wine beer water juice milk soda lemonade cocktail",
    "container": "cup mug bowl vase bottle box jar basket bucket pot glass suitcase backpack bag handbag wallet purse "
    "briefcase can barrel teapot pitcher jug envelope chest",
    "garment": "shirt hat jacket coat dress sweater scarf glove shoe boot sock pants skirt suit tie cap hoodie "
    "belt robe "
    "cape raincoat tuxedo jeans apron vest sandal sneaker helmet kimono",
    "piece of jewelry": "necklace bracelet ring earring pendant brooch crown tiara locket cufflink",
    "tool": "hammer knife fork spoon scissors saw wrench screwdriver drill shovel axe rake spatula whisk ladder broom "
    "brush paintbrush pencil pen eraser ruler sharpener chopstick sword shield hairbrush toothbrush",
    "instrument": "guitar piano violin drum trumpet flute saxophone cello harp accordion banjo ukulele",
    "plant": "tree flower bush cactus rose sunflower tulip fern lily daisy orchid bonsai vine shrub bamboo dandelion",
    "building": "house castle church barn tower skyscraper temple cabin hotel school library lighthouse windmill "
    "cottage "
    "mansion palace cathedral warehouse museum hospital factory hut",
    "toy": "doll kite balloon ball puzzle frisbee football basketball baseball volleyball swing yo-yo snowball dice",
    "place": "park forest beach street garden kitchen bathroom bedroom room city mountain field lake river ocean "
    "desert "
    "road classroom office restaurant farm meadow valley island cave studio gym stadium bridge backyard hallway "
    "village "
    "pond garage pool jungle market sky space patio porch trail path hill cliff lawn yard alley harbor zoo",
    "object": "book candle mirror pillow blanket towel rug carpet curtain picture painting umbrella key door "
    "window wall "
    "fence sign plate tray napkin frame notebook paper newspaper letter map globe sculpture statue trophy medal coin "
    "candlestick bulb lantern bookmark magnet clipboard chandelier faucet soap sponge mattress cushion tent rope chain "
    "ribbon flag bell stone rock brick log leaf feather shell bone microscope hydrant surfboard snowboard "
    "skis racket bat helmet hanger lampshade coaster mat bookend paperweight keychain hairpin sunglasses glasses "
    "headphones cutlery jewelry badge poster box fireplace meter snowman cube sphere cone pyramid "
    "cylinder tablecloth planter ornament thermos",
}

#: noun -> its class; a noun in several classes belongs to the first
CLASS_OF: dict[str, str] = {}
for _name, _members in _CLASSES.items():
    for _member in _members.split():
        CLASS_OF.setdefault(_member, _name)
MEMBERS: dict[str, tuple[str, ...]] = {
    name: tuple(member for member in members.split() if CLASS_OF[member] == name) for name, members in _CLASSES.items()
}
#: places that the same preposition leads to: 'in the kitchen' may become 'in the office', not 'in the mountain'
PLACE_GROUPS = tuple(
    tuple(group.split())
    for group in (
        "kitchen bathroom bedroom classroom office restaurant hallway garage studio gym",
        "park forest garden field desert meadow valley jungle backyard yard",
        "mountain hill cliff",
        "river lake ocean pond",
        "street road path trail alley",
        "city village market",
    )
)
#: two words that are one noun -> its class (what its last word is, 'object' where no class fits, '' for none)
COMPOUNDS = {
    "hot dog": "piece of food",
    "ice cream": "piece of food",
    "computer mouse": "device",
    "washing machine": "appliance",
    "sewing machine": "device",
    "baseball bat": "object",
    "teddy bear": "toy",
    "stuffed animal": "toy",
    "cell phone": "device",
    "traffic light": "object",
    "light bulb": "object",
    "light show": "object",
    "cutting board": "object",
    "parking meter": "object",
    "parking lot": "place",
    "swimming pool": "place",
    "living room": "place",
    "dining room": "place",
    "dining table": "piece of furniture",
    "dining chair": "piece of furniture",
    "rocking chair": "piece of furniture",
    "potted plant": "plant",
    "christmas tree": "plant",
    "boxing glove": "garment",
    "record player": "device",
    "sweet potato": "vegetable",
    "hot tub": "object",
    "hot air": "",
    "book signing": "",
    "table setting": "",
    "wine tasting": "",
    "light fixture": "",
    "bottle cap": "object",
}
#: things that are never counted, and names that only exist in the plural
UNCOUNTED = frozenset(
    "broccoli bread cheese water tea coffee wine beer juice milk soda rice pasta sushi bacon toast chocolate "
    "popcorn jewelry "
    "cutlery furniture scissors pants jeans skis sunglasses glasses headphones dice corn spinach celery lettuce paper "
    "soap sky space bamboo shrimp soup lemonade clothing hair grass snow sand food music".split()
)
PLURAL_OF = {noun: plural(noun) for noun in [*CLASS_OF, *_CLASSES] if noun not in UNCOUNTED}
SINGULAR_OF = {form: noun for noun, form in reversed(PLURAL_OF.items())}


def is_alive(noun: str) -> bool:
    """Whether a noun, in either number, names an animal or a person."""
    return CLASS_OF.get(SINGULAR_OF.get(noun, noun)) in ("animal", "bird", "insect", "fish", "person")


_VERBS = (
    "accept accompany add admire adorn appear approach arrange arrive ask attend await bake balance bark bathe beat "
    "beckon become begin bend bite bloom blow bounce break breathe brew bring brush build burn buy call capture "
    "carry carve cascade cast catch celebrate challenge chase cheer chew chirp clean climb cling clink coat collect "
    "come complete complement conduct consist contain contrast cook cover crash crawl create cross cry cuddle curl cut "
    "cycle dance dangle decorate dig dine direct dive do dot drape draw dream dress drift drink drip drive drop "
    "eat echo emerge emit enjoy enter entertain evoke examine exercise explore extend face fall feature feed feel "
    "fight fill fish fit fix flash flicker flit float flow flutter fly fold follow forge form fry gather gaze get give "
    "glance gleam glide glint glisten glitter glow go grasp graze greet grill grin grip grow guard hang have hear "
    "help hide "
    "hike hit hold hop hover hug hunt illuminate invite jog jump keep kick kiss kneel knit laugh lay lead lean "
    "leap learn leave lick lie lift light line listen live look lounge love lurk make marvel measure meditate meet "
    "melt meow mix mount move nestle observe offer open overlook pack paddle paint park pass peck pedal peek perch "
    "perform pet pick play point pose pour practice prepare press pretend propose protect provide pull push put race "
    "raise reach read record reflect relax resemble rest ride ring rise roam roar roast roll row rub run rush "
    "rustle sail scatter scurry search see seem sell send serve sew shake shape share shimmer shine shoot shop show "
    "sing sink sip sit skate skateboard ski slam sleep slide slither smell smile smoke snooze snowboard snuggle "
    "soak soar "
    "soothe sparkle speak spin splash spray spread sprinkle sprint stack stand stare stay steer stick stir stop "
    "stretch stroll "
    "strum study sunbathe support surf surround sway sweep swim swing swirl take talk taste teach tell think throw tie "
    "top touch tour tower travel trot try turn twinkle twirl twist type unwind use view visit wade wag wait wake walk "
    "wander warm wash watch water wave wear weep weigh welcome whip whisper whistle wind wink work wrap write "
    "yawn zoom "
    "battle bathe converse discuss fetch rehearse renovate repair sculpt tend tickle host complement showcase glide "
    "signal slice float wedge suspend propel weave "
    "adapt amplify assemble bask billow brainstorm browse bubble bury buzz chat check chop clash clatter compose creak "
    "croak crumble crunch dart devour drizzle exude frown gallop install invigorate juggle knead linger loom nap "
    "navigate organize pierce pound propose prune quench radiate refract savor select sketch sniff squish tantalize "
    "thrive toss transform tumble tune waft wriggle"
)
#: every form of every verb -> which forms it can be: 'base', 's', 'ing', 'past'
VERB_FORMS: dict[str, frozenset[str]] = {}
for _verb in _VERBS.split():
    for _form, _word in verb_forms(_verb):
        VERB_FORMS[_word] = VERB_FORMS.get(_word, frozenset()) | {_form}
#: present plural -> present singular, for agreement after an object was dropped, and back
THIRD_PERSON = {_verb: dict(verb_forms(_verb))["s"] for _verb in _VERBS.split()}
