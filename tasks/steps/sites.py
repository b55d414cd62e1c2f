"""Sites that hold much personal data: all of their documents go. Llama 2 section 2.1."""

from llama2_core.config import Positive, PositiveFloat, Record


class PersonalSites(Record):
    """When a site goes. Llama 2 prints no number; a page with a mail address or two at its foot is no reason."""

    documents: Positive = 10
    """Of fewer documents from a host nothing is concluded."""
    data_per_document: PositiveFloat = 5.0
    """Personal data found, on average over a host's documents, from which it goes."""
