"""Where verdicts on seven graders' own test cases differ from what their authors expect, and why each stays.

Keys are case ids of the folder of real input. `expected` is what the case's author expects.
"""

NO_ANSWER_IN_PROSE = "a number inside prose, neither boxed nor declared, is no answer: taking one would invent answers"
CONTRADICTION = "a chain of equations whose members differ is wrong, whichever member is right"
SETTING = "right only with the case's own setting (fewer digits, absolute tolerance); the default is relative, 1e-6"
CONFLICT = "the same pair stands in another case with the other expectation"
DISPUTED = "the two values differ"
POLICY_EMPTY = "an empty reference is no reference: undecided, not right"
REFERENCE_IN_PROSE = "a reference that is prose around an option is not opened; the source's columns should be mapped"

EXPLAINED: dict[str, str] = {
    **dict.fromkeys(("eq-0012", "eq-0013", "eq-0320", "eq-0321"), NO_ANSWER_IN_PROSE),
    **dict.fromkeys(("eq-0135", "eq-0423", "eq-0150", "eq-0437"), NO_ANSWER_IN_PROSE),
    **dict.fromkeys(("eq-0285", "eq-0287", "eq-0300", "eq-0301", "eq-0304", "eq-0269"), NO_ANSWER_IN_PROSE),
    **dict.fromkeys(("eq-0094", "eq-0096", "eq-0104", "eq-0392", "eq-0394"), CONTRADICTION),
    **dict.fromkeys(("eq-0133", "eq-0421", "eq-0260", "eq-0529", "eq-0532"), SETTING),
    **dict.fromkeys(("eq-0180", "eq-0181", "eq-0241", "eq-0242"), CONFLICT),
    "eq-0252": DISPUTED,
    "eq-0546": POLICY_EMPTY,
    "eq-0279": REFERENCE_IN_PROSE,
}
