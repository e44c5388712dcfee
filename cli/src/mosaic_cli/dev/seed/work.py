"""Work: Northlight, who move refrigerated freight. Maya has left the response team; what she wrote there is still hers."""

from typing import Final

from mosaic_cli.dev.seed.site import Frame, Person, Secret, Site, Topic

MAYA, TOMAS, PRIYA, DANIEL, AISHA, KENJI, LUCIA = (
    f"{name}@example.com" for name in ("maya", "tomas", "priya", "daniel", "aisha", "kenji", "lucia")
)

_PLATFORM: Final = Topic(
    team="Platform",
    members=(MAYA, TOMAS, PRIYA),
    authors=(MAYA, TOMAS, PRIYA, PRIYA),
    words={
        "service": (
            "route planner",
            "billing gateway",
            "driver app backend",
            "customs exporter",
            "label service",
            "telemetry intake",
        ),
        "change": (
            "move to PostgreSQL 18",
            "retire the nightly export",
            "split the read replica",
            "drop the legacy tariff table",
            "pin the TLS root",
        ),
        "symptom": (
            "p99 doubles after 18:00",
            "one worker leaks 40 MB an hour",
            "retries pile up",
            "the cache is cold after each deploy",
        ),
        "site": ("Rotterdam", "Gdańsk", "Trieste", "Antwerp", "Malmö"),
        "when": (
            "before the quarter closes",
            "in the Tuesday window",
            "once Priya is back",
            "with the next release",
            "after the load test",
        ),
        "check": (
            "replay yesterday's traffic",
            "compare 10,000 invoices",
            "run it in shadow for a week",
            "watch the error budget for two days",
        ),
    },
    tasks=(
        Frame("{change} for the {service}", "Do it {when}; {check} first. Roll back if {symptom}."),
        Frame("Find out why {symptom} in the {service}", "Seen from {site} only. {check} and write down what you ruled out."),
        Frame("Review the {service} runbook", "Nobody in {site} could follow step four. Needed {when}."),
        Frame(
            "Add an alert for the {service}: {symptom}",
            "Page in working hours only. {check} to find a threshold that does not cry wolf.",
        ),
    ),
    notes=(
        Frame(
            "Design: {change} in the {service}",
            "We {check}, then switch {site} {when}. The alternative was to live with it: {symptom}.",
        ),
        Frame(
            "{service}: what on-call should know",
            "If {symptom}, drain {site} and restart one worker at a time. Do not {change} under pressure.",
        ),
        Frame("Minutes, {service} sync", "Agreed to {change} {when}. Tomas will {check}; {site} goes last."),
    ),
    memories=(
        Frame("decision", "The {service} will {change} {when}, starting in {site}."),
        Frame("lesson", "When {symptom} in the {service}, first {check}."),
        Frame("fact", "{site} runs the {service} on its own hardware because of latency to the cold store."),
        Frame("preference", "Priya wants every plan for the {service} to say how it is undone; Tomas wants to {check}."),
    ),
    amounts={"tasks": 100, "notes": 60, "memory": 60},
)

_FIELD_OPERATIONS: Final = Topic(
    team="Field Operations",
    members=(MAYA, DANIEL, AISHA),
    authors=(DANIEL, AISHA, AISHA, MAYA),
    words={
        "depot": ("Rotterdam Waalhaven", "Gdańsk Osowa", "Trieste Punto Franco", "Malmö Norra hamnen", "Antwerp Noordkasteel"),
        "cargo": ("vaccines", "cut flowers", "fresh salmon", "infusion bags", "yoghurt cultures"),
        "issue": (
            "two reefers alarm at night",
            "the dock scanner reads every label twice",
            "drivers wait forty minutes at gate C",
            "seal numbers are typed by hand",
        ),
        "partner": (
            "the harbour authority",
            "Kühnhaus Logistik",
            "the customs desk",
            "the flower auction",
            "the hospital pharmacy",
        ),
        "week": ("next week", "by the end of the month", "before Easter", "during the shift change", "on the next visit"),
    },
    tasks=(
        Frame("Visit {depot}", "{issue}. Speak to the night shift too, {week}."),
        Frame("Agree on handover times for {cargo} with {partner}", "At {depot} {issue}. A written slot plan would help, {week}."),
        Frame("Replace probes on the {cargo} line", "{depot} reports drift of half a degree; {partner} audits {week}."),
        Frame("Train {depot} on the new checklist", "Reason: {issue}. Forty minutes per shift, {week}."),
    ),
    notes=(
        Frame(
            "{depot}, walk-through", "Seen: {issue}. {cargo} stood outside for eleven minutes; nobody was at fault, the plan was."
        ),
        Frame("Call with {partner}", "They accept our temperature log for {cargo} if it is signed. Follow up {week}."),
        Frame("Slot plan for {cargo}", "{depot} takes the early trucks. While {issue}, keep a buffer of two bays."),
    ),
    memories=(
        Frame("contact", "{partner} answers fastest by telephone, {week} especially."),
        Frame("lesson", "Where {issue}, {cargo} must not be unloaded before the paperwork is done."),
        Frame("fact", "{depot} handles {cargo} in hall two only."),
    ),
    amounts={"tasks": 80, "notes": 50, "memory": 45},
)

_INCIDENT_RESPONSE: Final = Topic(
    team="Incident Response",
    members=(TOMAS, KENJI),
    authors=(KENJI, TOMAS, MAYA),
    words={
        "incident": ("INC-311", "INC-318", "INC-327", "INC-334", "INC-340", "INC-352"),
        "cause": (
            "an expired intermediate",
            "a full disk on the queue host",
            "a retry storm",
            "a mistyped tariff",
            "a clock that ran ahead",
        ),
        "effect": (
            "labels printed blank in Antwerp",
            "invoices went out twice",
            "drivers could not log in for an hour",
            "the map showed Tuesday's trucks",
        ),
        "action": (
            "rehearse the failover",
            "write to the twelve customers concerned",
            "add the missing dashboard",
            "rotate the shared key",
            "move the lock to the database",
        ),
    },
    tasks=(
        Frame("{incident}: {action}", "{effect} because of {cause}. Close it with a link to the review."),
        Frame("Review of {incident}", "Cause so far: {cause}. Invite everyone who was awake, blame nobody."),
        Frame("Check that {cause} cannot come back", "{incident} cost a night: {effect}. Proposal: {action}."),
    ),
    notes=(
        Frame("{incident}, timeline", "02:14 first page, 02:31 {effect}, 03:05 {cause} found, 03:40 decided to {action}."),
        Frame("{incident}: what went well", "The handover did. {effect}, yet nobody guessed; {cause} was read off a graph."),
    ),
    memories=(
        Frame("lesson", "{cause} looks like a network fault at first; in {incident} it took fifty minutes."),
        Frame("decision", "After {incident}: {action}, and tell support before customers do."),
    ),
    amounts={"tasks": 60, "notes": 35, "memory": 35},
    newest_days=30,
)

_PEOPLE_AND_FINANCE: Final = Topic(
    team="People & Finance",
    members=(LUCIA, DANIEL),
    authors=(LUCIA, LUCIA, DANIEL),
    words={
        "round": (
            "the spring salary round",
            "the relocation budget",
            "the parental leave plan",
            "the bonus for the night shift",
            "the audit of travel costs",
        ),
        "person": ("a candidate for Malmö", "the new depot lead", "two contractors", "the apprentice", "a returning colleague"),
        "state": (
            "still confidential",
            "waiting for the works council",
            "signed, not announced",
            "over budget by four percent",
            "agreed in principle",
        ),
        "deadline": ("by the 15th", "before payroll runs", "at the board meeting", "this Friday"),
    },
    tasks=(
        Frame("Finish {round}", "It is {state}. Figures for {person} are missing, {deadline}."),
        Frame("Make an offer to {person}", "Within {round}; {state}. Answer due {deadline}."),
    ),
    notes=(
        Frame("{round}: where we stand", "{state}. The case of {person} decides the rest, {deadline}."),
        Frame("Talk with {person}", "Wants certainty about {round} {deadline}. Told them that it is {state}."),
    ),
    memories=(
        Frame("decision", "{round} is {state}; nothing is said to {person} {deadline}."),
        Frame("preference", "Lucia wants the numbers of {round} on one page, {deadline}."),
    ),
    amounts={"tasks": 45, "notes": 25, "memory": 20},
)

_FOR_THEMSELVES: Final = Topic(
    team=None,
    members=(),
    authors=(MAYA, MAYA, MAYA, TOMAS, PRIYA, DANIEL, AISHA, KENJI),
    words={
        "colleague": ("Tomas", "Priya", "Aisha", "Kenji", "the new intern", "Daniel"),
        "event": (
            "the planning day",
            "the talk at the user group",
            "the yearly review",
            "the visit of the auditors",
            "the offsite in Ghent",
        ),
        "piece": (
            "three slides",
            "one honest paragraph",
            "the numbers since spring",
            "a demo that works offline",
            "two questions for the panel",
        ),
        "city": ("Ghent", "Hamburg", "Gothenburg", "Bologna", "Rotterdam"),
        "insight": (
            "short meetings need longer preparation",
            "nobody reads the second page",
            "saying no early is a kindness",
            "a drawing settles most arguments",
        ),
    },
    tasks=(
        Frame("Prepare {piece} for {event}", "Show {colleague} a draft two days before. Remember: {insight}."),
        Frame("Book the train to {city}", "For {event}. {colleague} travels too; window seat, no early start."),
        Frame("Give {colleague} feedback on {event}", "Start with {piece}. In person, in {city} at the latest."),
        Frame("Read up before {event}", "{colleague} left notes; bring {piece} to {city}."),
    ),
    notes=(
        Frame("One-to-one with {colleague}", "Talked about {event} and {piece}. My takeaway: {insight}."),
        Frame("Thoughts on the way back from {city}", "{insight}. {event} was worth it for the talk with {colleague} alone."),
    ),
    memories=(
        Frame("preference", "{colleague} prefers to hear criticism before {event}, not after."),
        Frame("lesson", "From {event}: {insight}."),
        Frame("goal", "Bring {piece} to {event} without being asked."),
    ),
    amounts={"tasks": 95, "notes": 60, "memory": 50},
)

WORK: Final = Site(
    name="work",
    people=(
        Person(MAYA, "Maya Lindqvist"),
        Person(TOMAS, "Tomáš Horák"),
        Person(PRIYA, "Priya Raman"),
        Person(DANIEL, "Daniel Mbeki"),
        Person(AISHA, "Aisha Rahman"),
        Person(KENJI, "Kenji Watanabe"),
        Person(LUCIA, "Lucia Ferrari"),
        Person("piet@example.com", "Piet de Vries", active=False),
    ),
    topics=(_PLATFORM, _FIELD_OPERATIONS, _INCIDENT_RESPONSE, _PEOPLE_AND_FINANCE, _FOR_THEMSELVES),
    credentials=(
        Secret(PRIYA, "Production database, break-glass", "PostgreSQL", team="Platform"),
        Secret(MAYA, "Container registry", "Harbor", team="Platform"),
        Secret(DANIEL, "Customs portal", "DouaneNet", team="Field Operations"),
        Secret(LUCIA, "Payroll", "DATEV", team="People & Finance"),
        Secret(MAYA, "Conference account", "EuroPython"),
    ),
    api_keys=(
        Secret(TOMAS, "Map tiles for the route planner", "MapTiler", team="Platform"),
        Secret(AISHA, "Reefer telemetry", "ThermoKing Connect", team="Field Operations"),
        Secret(KENJI, "Paging", "PagerDuty", team="Incident Response"),
        Secret(MAYA, "Calendar export", "Fastmail"),
    ),
)
