from spotkd import STRATEGIES

print(list(STRATEGIES)[:4])  # ['adaptive', 'anti', 'random', 'always']
print(STRATEGIES["adaptive"].__name__)  # Adaptive
