"""``python -m xlm.integrations.lm_eval``: the harness's own command, with this model among those that it knows."""

from xlm.integrations.lm_eval import main

if __name__ == "__main__":
    main()
