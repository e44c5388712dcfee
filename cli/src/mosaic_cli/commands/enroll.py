"""`mosaic federation enroll`: redeem an enrollment URL without a gateway of one's own."""

from pathlib import Path
from typing import Annotated

import typer
from mosaic_common.clock import SystemClock
from rich.text import Text

from mosaic_cli.certificates import EnrolledCertificate
from mosaic_cli.dialing import enrollment_channel, establish_trust, verify_endpoint
from mosaic_cli.documents import enrolled_document
from mosaic_cli.enrollment_folder import EnrollmentFolder
from mosaic_cli.options import OutputOption
from mosaic_cli.prompts import AcceptEndpointHostOption, UrlArgument, confirm_endpoint_host, read_enrollment_url
from mosaic_cli.redemption import Waiting, redeem
from mosaic_cli.tables import details, plain
from mosaic_cli.views.certificates import enrolled_lines

app = typer.Typer(add_completion=False)


@app.command()
def enroll(
    url: UrlArgument = None,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where key, certificate, chain, trust bundle and endpoint go.")],
    accept_endpoint_host: AcceptEndpointHostOption = False,
    output: OutputOption,
) -> None:
    """Redeem an enrollment URL with no gateway: the key is made here and stays here.

    Writes key.pem, certificate.pem, chain.pem, trust-bundle.pem and endpoint, for your eyes only; overwrites nothing.
    Interrupted, the same command continues.
    """
    offer = read_enrollment_url(url, output)
    clock = SystemClock()
    # 1. Key, CSR and redemption id are on disk before anybody hears of them: whatever happens next can be repeated.
    folder = EnrollmentFolder.open(out, offer)
    # 2. Whom the URL means is settled before the token signs anything.
    trust = establish_trust(offer, clock.now())
    with enrollment_channel(offer, trust) as channel:
        enrolled = redeem(channel, offer, folder.request, clock=clock, waiting=Waiting(output.note))
    confirm_endpoint_host(enrolled.endpoint, offer, accepted=accept_endpoint_host, terminal=output)
    # 3. The certificate is kept before its use is tried: once the token has expired it could not be had again.
    files = folder.complete(enrolled, trust)
    output.done(f"Key and certificate are in {out}.")
    verify_endpoint(enrolled.endpoint, trust)
    certificate = EnrolledCertificate.of(enrolled.certificate)
    output.show(
        {
            "certificate": enrolled_document(certificate),
            "gateway": enrolled.gateway,
            "endpoint": str(enrolled.endpoint),
            "files": {name: str(path) for name, path in files.items()},
        },
        lambda: details(
            Text.assemble(("Enrolled at ", "bold"), plain(enrolled.gateway)),
            [
                ("endpoint", str(enrolled.endpoint)),
                *enrolled_lines(certificate, clock.now()),
                *((name.replace("_", " "), str(path)) for name, path in files.items()),
            ],
        ),
    )
