"""Asks a model folder one thing and prints the answer, run with the toolchain's interpreter.

python answer.py FOLDER "What is the capital of France?"
"""

# mypy: disable-error-code="import-not-found"
# (the import inside the function is the toolchain's)

import json
import sys

MAX_TOKENS = 96


def main() -> None:
    import onnxruntime_genai as og

    folder, question = sys.argv[1:]
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    messages = json.dumps([{"role": "user", "content": question}])
    prompt = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=MAX_TOKENS, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    sys.stdout.write(tokenizer.decode(generator.get_sequence(0)[len(prompt) :]))


if __name__ == "__main__":
    main()
