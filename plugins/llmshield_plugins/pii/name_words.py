"""Words around names: titles, what announces a person, a place, a firm. Folded: small letters, no accents."""

TITLES = (
    "mr mrs ms miss dr prof sir herr frau m mme mlle sr sra don dona senor senora madame monsieur signor signora mx rev "
    "hon capt lt sgt col gen dipl ing lord lady king queen president minister chancellor"
)
CUES = (
    "name names nombre nom vorname nachname first last firstname lastname surname fullname full customer client patient "
    "user username author owner contact employee manager doctor sender recipient from to cc dear hi hello hallo hey liebe "
    "lieber sehr geehrte geehrter signed by sincerely regards grusse cardholder holder applicant student teacher assignee "
    "reporter reviewer speaker attendee passenger guest candidate beneficiary payee borrower lender called named heisse "
    "bin am this is mit kind thanks cheers"
)
PLACES = (
    "in at from near city town country state location address lives living located based born moved visit to aus nach bei "
    "von wohnt ort stadt land strasse capital province region county republic district river village"
)
FIRMS = (
    "inc ltd llc gmbh ag corp corporation company co plc bank university universitat institute ministry department group "
    "holdings association foundation council committee party club fc sv tv ev se sa bv nv college school hospital "
    "insurance partners services systems technologies labs limited"
)
