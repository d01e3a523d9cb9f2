from spotkd import SpotkdError, create_model

try:
    create_model("resnet21", num_classes=10)
except SpotkdError as error:
    print(error)  # unknown model 'resnet21': did you mean resnet32 or resnet20 or resnet14?
