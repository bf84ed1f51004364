"""The admin API: what operators see and change of a running gateway, over HTTP, on a port of its own.

`table` is what is served, `endpoints/` the handlers by subject, `app` the way of a request through `entrance` (which
pages and names), `access` (who, and which role), `reading` (what exactly is asked) to its handler. `description` makes
the OpenAPI document of the same table. Changes go through `House.change`: recorded before they are made.
"""
