"""Home: a family of three generations, a shared allotment, a school run with the neighbours."""

from typing import Final

from mosaic_cli.dev.seed.site import Frame, Person, Secret, Site, Topic

MAYA, JONAS, ELIN, RUTH, BEN = (f"{name}@example.com" for name in ("maya", "jonas", "elin", "ruth", "ben"))

_HOUSEHOLD: Final = Topic(
    team="Household",
    members=(MAYA, JONAS, ELIN),
    authors=(MAYA, JONAS, JONAS, ELIN),
    words={
        "thing": ("dishwasher", "bicycle shed door", "boiler", "bathroom fan", "hallway lamp", "kitchen tap", "washing machine"),
        "flaw": ("drips", "hums at night", "sticks when it rains", "trips the fuse", "leaves a puddle", "rattles"),
        "shop": ("the hardware store on Mill Lane", "the co-op", "the bakery by the station", "the pharmacy", "the farm shop"),
        "goods": (
            "oat milk and coffee beans",
            "descaler",
            "light bulbs, E27 warm",
            "flour and yeast",
            "birthday candles",
            "a new hose",
        ),
        "day": ("Saturday", "Thursday evening", "before the weekend", "on the way back from swimming", "Monday morning"),
        "bill": ("electricity", "water", "home insurance", "internet", "chimney sweep"),
        "dish": ("lentil soup", "mushroom risotto", "Ruth's plum cake", "fish pie", "flatbread with za'atar"),
        "trip": ("the lake cabin", "Elin's handball tournament", "the visit to Ruth's sister", "the night train to Vienna"),
    },
    tasks=(
        Frame("Have a look at the {thing}", "It {flaw}. If it is more than a screw, call the landlord {day}."),
        Frame("Fetch {goods}", "From {shop}, {day}. The list on the fridge has the rest."),
        Frame("Pay the {bill} bill", "The letter lies in the blue tray; compare with last year before paying."),
        Frame("Plan {trip}", "Dates, beds, who takes the dog. Settle it {day}."),
        Frame("Cook {dish} for Sunday", "Ruth comes at noon. We are out of {goods}."),
    ),
    notes=(
        Frame(
            "How to reset the {thing}",
            "When it {flaw}: off at the wall, two minutes, then hold the left button until the light blinks.",
        ),
        Frame("{dish}, as it worked last time", "Half the salt, twice the lemon. Everything for it comes from {shop}."),
        Frame("Packing list for {trip}", "Chargers, the card game, wool socks, {goods}. Leave the key with Ben."),
        Frame(
            "{bill}: contract and numbers",
            "Meter under the stairs. Notice period three months, renewal in autumn, hotline answers only on {day}.",
        ),
    ),
    memories=(
        Frame("preference", "Elin eats {dish} only when the onions are invisible."),
        Frame("fact", "The {thing} {flaw} since the storm; the spare part came from {shop}."),
        Frame("routine", "Groceries are fetched from {shop} {day}; Jonas takes the cargo bike."),
        Frame("decision", "We agreed to keep the {bill} contract another year and look again after {trip}."),
    ),
    amounts={"tasks": 110, "notes": 60, "memory": 60},
)

_ALLOTMENT: Final = Topic(
    team="Allotment 14b",
    members=(MAYA, RUTH, BEN),
    authors=(RUTH, RUTH, BEN, MAYA),
    words={
        "crop": ("runner beans", "the early potatoes", "chard", "the tomatoes in bed three", "garlic", "raspberries", "leeks"),
        "work": ("thin out", "mulch", "water deeply", "tie up", "cover with fleece", "weed around", "sow a second row of"),
        "pest": ("slugs", "blackfly", "pigeons", "late frost", "powdery mildew"),
        "tool": ("the long rake", "Ben's wheelbarrow", "the soaker hose", "the cold frame", "the water butt"),
        "moment": (
            "before Sunday's heat",
            "after the rain",
            "while the soil is warm",
            "at the next work day",
            "first thing in the morning",
        ),
    },
    tasks=(
        Frame("{work} {crop}", "Best {moment}. Use {tool} and leave a line in the shed book."),
        Frame("Keep {pest} off {crop}", "Last year they were gone in two nights. {tool} is in the shed."),
        Frame("Mend {tool}", "Needed {moment}, when it is time for {crop}."),
    ),
    notes=(
        Frame("What we learned about {crop}", "They suffered from {pest} wherever we did not {work} them {moment}."),
        Frame("Rota for {tool}", "Whoever uses it {moment} brings it back dry. {crop} first."),
        Frame("{pest}: what helped", "Patience, copper tape, and going out with a torch. {crop} recovered within a fortnight."),
    ),
    memories=(
        Frame("fact", "In bed three {crop} did well, although {pest} came early."),
        Frame("preference", "Ruth wants nobody to {work} {crop} without asking her."),
        Frame("routine", "Ben oils {tool} {moment}."),
    ),
    amounts={"tasks": 60, "notes": 40, "memory": 40},
)

_SCHOOL_RUN: Final = Topic(
    team="School run",
    members=(JONAS, BEN),
    authors=(JONAS, BEN),
    words={
        "child": ("Elin", "Noor", "the twins", "little Sam"),
        "place": ("the handball hall", "the music school", "the dentist on Canal Street", "the school gate", "the swimming pool"),
        "time": ("7:35", "half past three", "ten to five", "a quarter past four"),
        "trouble": (
            "the 14 tram is replaced by a bus",
            "the bridge is closed",
            "the cargo bike has a flat tyre",
            "there is a teachers' day",
        ),
    },
    tasks=(
        Frame("Pick up {child} at {place}", "At {time}. Mind that {trouble}."),
        Frame("Swap the {time} run with Ben", "Because {trouble}; {child} waits at {place}."),
    ),
    notes=(
        Frame("If {trouble}", "{child} knows to wait at {place} until {time} and then to ring Jonas."),
        Frame("{place}: where to stop", "Not in the bus lane. {child} comes out of the side door at {time}."),
    ),
    memories=(
        Frame("fact", "{child} has to be at {place} at {time} in winter."),
        Frame("contact", "Whoever is late for {place} calls Ben; {child} has no telephone."),
    ),
    amounts={"tasks": 40, "notes": 20, "memory": 15},
)

_FOR_THEMSELVES: Final = Topic(
    team=None,
    members=(),
    authors=(MAYA, MAYA, MAYA, JONAS, JONAS, ELIN, RUTH, BEN),
    words={
        "goal": (
            "the half marathon in May",
            "the Swedish exam",
            "the choir's spring concert",
            "the pottery course",
            "the night sky app",
        ),
        "step": (
            "three easy runs",
            "two chapters",
            "the second voice, bars 40 to 72",
            "the glaze samples",
            "one quiet evening a week",
        ),
        "friend": ("Ingrid", "Marek", "Aunt Lou", "the Okafors", "Paula from the old flat"),
        "gift": (
            "a fountain pen",
            "tickets for the planetarium",
            "seeds from the allotment",
            "the recipe book",
            "a proper raincoat",
        ),
        "feeling": ("surprisingly calm", "too tired to argue", "proud", "homesick for the sea", "ready for something new"),
    },
    tasks=(
        Frame("Prepare for {goal}", "This week: {step}. Do not let it slip behind the ironing."),
        Frame("Write to {friend}", "Thank them for {gift} and ask about {goal}."),
        Frame("Find {gift} for {friend}", "Not online. Wrap it before anyone sees."),
    ),
    notes=(
        Frame("Diary, after {step}", "Felt {feeling}. {friend} says that {goal} is only a reason to go out."),
        Frame("Ideas for {friend}", "{gift}, or a day together at the sea. Was {feeling} last time."),
    ),
    memories=(
        Frame("preference", "{friend} would rather have {gift} than a party."),
        Frame("goal", "Work towards {goal} with {step}."),
        Frame("mood", "After {step} I was {feeling}."),
    ),
    amounts={"tasks": 90, "notes": 60, "memory": 55},
)

HOME: Final = Site(
    name="home",
    people=(
        Person(MAYA, "Maya Lindqvist"),
        Person(JONAS, "Jonas Lindqvist"),
        Person(ELIN, "Elin Lindqvist"),
        Person(RUTH, "Ruth Abramson"),
        Person(BEN, "Ben Okafor"),
        Person("au-pair@example.com", "Claire Dubois", active=False),
    ),
    topics=(_HOUSEHOLD, _ALLOTMENT, _SCHOOL_RUN, _FOR_THEMSELVES),
    credentials=(
        Secret(MAYA, "Family photo storage", "Hetzner"),
        Secret(JONAS, "Router administration", "FRITZ!Box", team="Household"),
        Secret(MAYA, "Energy supplier portal", "Vattenfall", team="Household"),
        Secret(RUTH, "Seed exchange login", "Arche Noah", team="Allotment 14b"),
    ),
    api_keys=(
        Secret(JONAS, "Heating automation", "Home Assistant", team="Household"),
        Secret(MAYA, "Weather for the allotment", "Open-Meteo", team="Allotment 14b"),
    ),
)
