"""A text of everything that texts are full of: the automata build their states when a text first needs them, and that
shall be no caller's text."""

WARM_UP = (
    "Hello, I am writing on 12 March 2024 at 10:22 about order 114-3941689-8772232, version 1.2.3 (see the API key).\n"
    "My mail is someone@example.com, my card 4111 1111 1111 1111, my number +1 212 555 0187, IBAN DE89370400440532013000.\n"
    'I live at 12 Main Street, Springfield; born March 12, 1980. {"password": "x", "ip": "192.168.17.42"}\n'
    "On 2024-01-15 we shipped 15 items (v1.2.3) for 1,234.56 EUR to 3 customers; see https://example.com/a?b=1&c=d#e.\n"
    "Anna Weber from Hamburg went to Globex Corp. yesterday, wrote to anna.smith@example.com and called (212) 555-0187 x12.\n"
    '{"id": 4711, "name": "Paul Okafor", "card": "5500-0055-5555-5559", "ssn": "536-22-8726", "mac": "00:1A:2B:3C:4D:5E"}\n'
    "id;name;iban;amount\n1;Ingrid Solberg;GB29 NWBK 6016 1331 9268 19;99,95\n"
    "2024-05-06T11:22:33.123Z INFO [c.a.LoginFilter] user=paul ip=10.1.2.3 took 12 ms -> 200 OK\n"
    "Herr Wagner wohnt in der Hauptstraße 12, 10115 Berlin; Vestergade 5; 12 rue de la Paix, 75002 Paris; Calle Mayor 5, Madrid.\n"
    "def f(x):\n    return {'a': [1, 2.5e-3], \"b\": None}  # TODO: internationalization of snake_case_names\n"
    "| a | b |\n|---|---|\n- **bold** `code` <b>Hi</b> &amp; 'quoted' %20 \\u00e9 [link](https://x.example/y)\n"
    "token: ghp_abcdefghijklmnopqrstuvwxyz0123456789, https://app:pw0rd@db.example/main, 550e8400-e29b-41d4-a716-446655440000\n"
    "Please send 3 boxes to 1600 Pennsylvania Avenue NW, Washington, DC 20500, or P.O. Box 12. 5 November 2023, 10:45 am.\n"
)
PIECES = (1, 4, 7, 23)
"""Sizes of the pieces in which a stream's guards read it."""
