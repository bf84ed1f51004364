"""Every kind of personal data by name, and what has to be there for it to be found.

Names are presidio's where presidio has one. `"*"` in a policy means every kind that is available and points at a
person or a secret; the broad kinds (any URL, any date, any UUID, any postcode) only count when they are named,
since masking each date and link makes most prompts useless.
"""

from __future__ import annotations

from importlib.util import find_spec

OWN = frozenset(
    {
        "EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "US_ITIN", "US_PASSPORT", "US_DRIVER_LICENSE",
        "US_BANK_NUMBER", "ABA_ROUTING_NUMBER", "PHONE_NUMBER", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO",
        "URL_WITH_CREDENTIALS", "API_KEY", "JWT", "PRIVATE_KEY", "DATE_OF_BIRTH", "STREET_ADDRESS", "UK_NHS",
        "UK_NINO", "ES_NIF", "ES_NIE", "IT_FISCAL_CODE", "IN_AADHAAR", "IN_PAN", "PL_PESEL", "DE_TAX_ID",
        "FR_NIR", "NL_BSN", "BR_CPF", "CN_RESIDENT_ID",
    }
)  # fmt: skip
"""Found by the expressions and checksums of this plugin, with the core install."""

# Recogniser classes of presidio-analyzer whose kinds are used as well, when it is installed.
PRESIDIO = {
    "AuAbnRecognizer": "AU_ABN", "AuAcnRecognizer": "AU_ACN", "AuMedicareRecognizer": "AU_MEDICARE",
    "AuTfnRecognizer": "AU_TFN", "CaSinRecognizer": "CA_SIN", "DeBsnrRecognizer": "DE_BSNR",
    "DeFuehrerscheinRecognizer": "DE_FUEHRERSCHEIN", "DeHandelsregisterRecognizer": "DE_HANDELSREGISTER",
    "DeHealthInsuranceRecognizer": "DE_HEALTH_INSURANCE", "DeIdCardRecognizer": "DE_ID_CARD",
    "DeKfzRecognizer": "DE_KFZ", "DeLanrRecognizer": "DE_LANR", "DePassportRecognizer": "DE_PASSPORT",
    "DeSocialSecurityRecognizer": "DE_SOCIAL_SECURITY", "DeTaxNumberRecognizer": "DE_TAX_NUMBER",
    "DeVatIdRecognizer": "DE_VAT_ID", "EsPassportRecognizer": "ES_PASSPORT",
    "FiPersonalIdentityCodeRecognizer": "FI_PERSONAL_IDENTITY_CODE", "InGstinRecognizer": "IN_GSTIN",
    "InPassportRecognizer": "IN_PASSPORT", "InVehicleRegistrationRecognizer": "IN_VEHICLE_REGISTRATION",
    "InVoterRecognizer": "IN_VOTER", "ItDriverLicenseRecognizer": "IT_DRIVER_LICENSE",
    "ItIdentityCardRecognizer": "IT_IDENTITY_CARD", "ItPassportRecognizer": "IT_PASSPORT",
    "ItVatCodeRecognizer": "IT_VAT_CODE", "KrBrnRecognizer": "KR_BRN", "KrDriverLicenseRecognizer": "KR_DRIVER_LICENSE",
    "KrFrnRecognizer": "KR_FRN", "KrPassportRecognizer": "KR_PASSPORT", "KrRrnRecognizer": "KR_RRN",
    "MedicalLicenseRecognizer": "MEDICAL_LICENSE", "NgNinRecognizer": "NG_NIN",
    "NgVehicleRegistrationRecognizer": "NG_VEHICLE_REGISTRATION", "PhPassportRecognizer": "PH_PASSPORT",
    "PhTinRecognizer": "PH_TIN", "PhUmidRecognizer": "PH_UMID",
    "SeOrganisationsnummerRecognizer": "SE_ORGANISATIONSNUMMER", "SePersonnummerRecognizer": "SE_PERSONNUMMER",
    "SgFinRecognizer": "SG_NRIC_FIN", "SgUenRecognizer": "SG_UEN", "ThTninRecognizer": "TH_TNIN",
    "TrLicensePlateRecognizer": "TR_LICENSE_PLATE", "TrNationalIdRecognizer": "TR_NATIONAL_ID",
    "UkDrivingLicenceRecognizer": "UK_DRIVING_LICENCE", "UkPassportRecognizer": "UK_PASSPORT",
    "UkVehicleRegistrationRecognizer": "UK_VEHICLE_REGISTRATION", "UsClaimNumberRecognizer": "US_CLAIM_NUMBER",
    "UsHealthInsuranceMemberIdRecognizer": "US_HEALTH_INSURANCE_MEMBER_ID", "UsMbiRecognizer": "US_MBI",
    "UsNpiRecognizer": "US_NPI", "UsPrescriptionNumberRecognizer": "US_PRESCRIPTION_NUMBER",
    "UsPriorAuthorizationNumberRecognizer": "US_PRIOR_AUTHORIZATION_NUMBER",
    "UsProviderTaxIdRecognizer": "US_PROVIDER_TAX_ID", "UsReferralNumberRecognizer": "US_REFERRAL_NUMBER",
    "ZaCompanyRegistrationRecognizer": "ZA_COMPANY_REGISTRATION", "ZaDriverLicenseRecognizer": "ZA_DRIVER_LICENSE",
    "ZaIdNumberRecognizer": "ZA_ID_NUMBER", "ZaIncomeTaxNumberRecognizer": "ZA_INCOME_TAX_NUMBER",
    "ZaLicensePlateRecognizer": "ZA_LICENSE_PLATE", "ZaPassportRecognizer": "ZA_PASSPORT",
    "ZaTrafficRegisterNumberRecognizer": "ZA_TRAFFIC_REGISTER_NUMBER", "ZaVatNumberRecognizer": "ZA_VAT_NUMBER",
    "CaPostalCodeRecognizer": "CA_POSTAL_CODE", "DateRecognizer": "DATE_TIME", "DePlzRecognizer": "DE_PLZ",
    "UkPostcodeRecognizer": "UK_POSTCODE", "UrlRecognizer": "URL", "UuidRecognizer": "UUID",
}  # fmt: skip

NAMES = frozenset({"PERSON", "LOCATION", "ORGANIZATION"})
"""Found by the names model (`names.py`); it needs numpy, which the extra `[pii]` brings."""

LISTED = frozenset({"NRP"})
"""Found by a list of words (`nrp.py`)."""

BROAD = frozenset({"CA_POSTAL_CODE", "DATE_TIME", "DE_PLZ", "UK_POSTCODE", "URL", "UUID"}) | NAMES | LISTED
"""Not part of `"*"`: found only when a policy names them."""

KNOWN = OWN | frozenset(PRESIDIO.values()) | NAMES | LISTED


def presidio_installed() -> bool:
    """Whether the extra `[pii]` is there; does not import it."""
    return find_spec("presidio_analyzer") is not None


def numpy_installed() -> bool:
    """Whether the names model can run."""
    return find_spec("numpy") is not None


def available() -> frozenset[str]:
    """The kinds that can be found with what is installed, broad ones included."""
    found = OWN | LISTED | (frozenset(PRESIDIO.values()) if presidio_installed() else frozenset())
    return found | NAMES if numpy_installed() else found
