"""A service, or the command, composed as always but for the adapters that ask before they pass a step.

    python -m tests.support.processes_pausing PORT enrollment
    python -m tests.support.processes_pausing PORT command federation peer add …

Nothing in product code knows of it: adapters are subclassed, and put in their places in the namespace of the composition root.
"""

import base64
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS

from tests.support.pausing import AnswerLost, Asking, Step

COMMAND: Final = "command"
HOME_GRANTS: Final = "home-grants"

# What a transaction does is known by the call that it serves: (before COMMIT is sent, after it was answered).
SERVING: Final[Mapping[str, tuple[Step, Step]]] = {
    "ClaimEnrollment": (Step.CLAIMING, Step.CLAIMED),
    "CompleteEnrollment": (Step.COMPLETING, Step.COMPLETED),
}
CONNECTING: Final[Mapping[str, tuple[Step, Step]]] = {
    "PrepareConnection": (Step.PREPARING, Step.PREPARED),
    "ActivateConnection": (Step.ACTIVATING, Step.ACTIVATED),
}


@contextlib.contextmanager
def _pausing_enrollment(asking: Asking) -> Iterator[None]:
    from mosaic_enrollment import app
    from mosaic_enrollment.adapters.failover import FailoverCounters
    from mosaic_enrollment.adapters.services import Broker, Grants
    from mosaic_enrollment.domain.budgets import Charge
    from mosaic_enrollment.domain.redeem import Attempt, Enrolled, Redemption

    class PausingGrants(Grants):
        async def claim(self, redemption: Redemption, *, signer_reachable: bool) -> Attempt | Enrolled:
            outcome = await super().claim(redemption, signer_reachable=signer_reachable)
            if isinstance(outcome, Attempt):
                await asking.at(Step.WARRANTED, **_ordered_by(outcome.warrant))
            return outcome

        async def complete(self, attempt: Attempt, chain: Sequence[bytes], source_address: str) -> Enrolled:
            enrolled = await super().complete(attempt, chain, source_address)
            await asking.at(Step.ENROLLED)
            return enrolled

    class PausingBroker(Broker):
        async def issue(self, csr_der: bytes, warrant: str) -> tuple[bytes, ...]:
            chain = await super().issue(csr_der, warrant)
            await asking.at(Step.BROUGHT)
            return chain

    class PausingCounters(FailoverCounters):
        async def spend(self, charges: Sequence[Charge]) -> None:
            await asking.at(Step.RECEIVED)
            await super().spend(charges)
            await asking.at(Step.COUNTED)

    with (
        patch.object(app, "Grants", PausingGrants),
        patch.object(app, "Broker", PausingBroker),
        patch.object(app, "FailoverCounters", PausingCounters),
    ):
        yield


@contextlib.contextmanager
def _pausing_broker(asking: Asking) -> Iterator[None]:
    import httpx
    from mosaic_ca_broker import app
    from mosaic_ca_broker.adapters.federation_root import FederationRoot
    from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
    from mosaic_ca_broker.adapters.step_ca import StepCa
    from mosaic_common.clock import Clock
    from mosaic_common.warrants import Warrant
    from mosaic_common.x509 import Csr

    class PausingTransport(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if request.url.path == "/1.0/sign":
                try:
                    await asking.at(Step.SIGNED)
                except AnswerLost as lost:
                    await response.aclose()
                    raise httpx.ReadError(str(lost), request=request) from lost
            return response

    class PausingStepCa(StepCa):
        def __init__(self, url: str, root: FederationRoot, key: ProvisionerKey, clock: Clock) -> None:
            transport = PausingTransport(verify=root.tls_context(), trust_env=False)
            super().__init__(url, root, key, clock, transport=transport)

        async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
            await asking.at(Step.ORDERED, grant_id=str(warrant.grant_id), serial=str(warrant.serial))
            chain = await super().sign(csr, warrant)
            await asking.at(Step.ISSUED)
            return chain

    with patch.object(app, "StepCa", PausingStepCa):
        yield


@contextlib.contextmanager
def _pausing_grants(asking: Asking, steps: Mapping[str, tuple[Step, Step]]) -> Iterator[None]:
    from mosaic_common.rpc.call import current_call
    from mosaic_grants import app
    from mosaic_grants.adapters.housekeeping import Housekeeping, Intervals
    from mosaic_grants.adapters.ledger.database import PostgresLedger

    class PausingLedger(PostgresLedger):
        async def _commit(self, begun: Any) -> None:
            call = current_call.get(None)
            before, after = steps.get(call.method.name, (None, None)) if call else (None, None)
            if before:
                await asking.at(before)
            await super()._commit(begun)
            if after:
                await asking.at(after)  # an answer that is lost is a ConnectionError, as the driver's would be

    # Nobody waits half a minute here to see what the sweeps have found.
    often = partial(Housekeeping, intervals=Intervals(countersign=0.5, sweep=0.5, tell=0.25, compare=2.0))
    with patch.object(app, "PostgresLedger", PausingLedger), patch.object(app, "Housekeeping", often):
        yield


@contextlib.contextmanager
def _pausing_command(asking: Asking) -> Iterator[None]:
    from mosaic_cli.commands import peers
    from mosaic_cli.dialing import Address, Trust, verify_endpoint
    from mosaic_cli.redemption import Waiting

    def pausing_verify_endpoint(endpoint: Address, trust: Trust) -> None:
        asking.at_blocking(Step.REDEEMED)
        verify_endpoint(endpoint, trust)

    with (
        patch.object(peers, "Waiting", partial(Waiting, sleep=asking.wait)),
        patch.object(peers, "verify_endpoint", pausing_verify_endpoint),
    ):
        yield


def _ordered_by(unverified_warrant: str) -> dict[str, str]:
    """The grant and the serial that a warrant is for."""
    payload = unverified_warrant.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return {name: claims[name] for name in ("grant_id", "serial")}


def _run(program: str, asking: Asking, arguments: Sequence[str]) -> int:
    if program == COMMAND:
        from mosaic_cli.__main__ import main as command

        with _pausing_command(asking):
            sys.argv[1:] = arguments
            command()
        return 0
    if program == ENROLLMENT:
        from mosaic_enrollment.__main__ import main as enrollment

        with _pausing_enrollment(asking):
            return enrollment(["serve"])
    if program == CA_BROKER:
        from mosaic_ca_broker.__main__ import main as broker

        with _pausing_broker(asking):
            return broker(["serve"])
    from mosaic_grants.__main__ import main as grants

    with _pausing_grants(asking, SERVING if program == GRANTS else CONNECTING):
        return grants(["serve"])


if __name__ == "__main__":
    sys.exit(_run(sys.argv[2], Asking(int(sys.argv[1])), sys.argv[3:]))
