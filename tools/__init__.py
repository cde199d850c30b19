"""The tools of the bundled support agent: one for each effect class.

==================  ===============  ========================================================
tool                effect           why
==================  ===============  ========================================================
``look_up_order``   ``read``         changes nothing, so it may simply be asked again
``refund_order``    ``transaction``  SQL in the database that also holds the journal
``send_email``      ``idempotent``   may be sent again: the Message-ID says it is the same one
``book_pickup``     ``once``         the carrier books whatever it is sent; ask before repeating
==================  ===============  ========================================================

They are meant to be copied. Where they act is named by the environment: ``SHOP_DATABASE_URL``,
``SMTP_HOST``, ``SMTP_PORT`` and ``CARRIER_URL``.
"""

from __future__ import annotations

from .mail import send_email
from .orders import look_up_order, refund_order
from .pickups import book_pickup

__all__ = ["TOOLS", "book_pickup", "look_up_order", "refund_order", "send_email"]

TOOLS = (look_up_order, refund_order, book_pickup, send_email)
