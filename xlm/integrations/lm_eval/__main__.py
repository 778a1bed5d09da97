"""``python -m xlm.integrations.lm_eval``: the command of the harness, with the model ``xlm`` added."""

from xlm.integrations.lm_eval import main

if __name__ == "__main__":
    main()
