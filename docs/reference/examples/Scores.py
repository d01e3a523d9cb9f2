from spotkd.training import Scores

scores = Scores(top1=71.25, top5=90.5, loss=1.02, images=400)
print(f"{scores.top1:.2f} % of {scores.images} images")  # 71.25 % of 400 images
