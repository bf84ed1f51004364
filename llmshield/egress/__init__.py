"""The transparent mount's own tools: its certificate authority, rules of the firewall, a closed room for one command,
and a doctor that says what a client would meet here.

Nothing here ends TLS or reads a call; that is done by the addon and the gateway. No module imports mitmproxy.
"""
