from spotkd import DISTILLERS

print(list(DISTILLERS)[:4])  # ['ab', 'at', 'cc', 'crd']
print(DISTILLERS["at"].__name__)  # AT
