"""Chat templates for the comparison with transformers: the turns of known families, and idioms.

All are written for these tests. `FAMILIES` mark turns as well-known families do. Each of `IDIOMS`
is built around one construct that templates of published models use.
"""

from __future__ import annotations

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

FAMILIES = {
    "chatml": CHATML,
    "chatml-system": """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\nYou help.<|im_end|>\n' -}}
{%- endif -%}
{%- for m in messages -%}
    {{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}""",
    "llama2": """\
{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}
    {% set system = messages[0]['content'] %}
{% else %}
    {% set rest = messages %}
    {% set system = false %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Turns must go user, assistant, user, assistant') }}
    {% endif %}
    {% if loop.index0 == 0 and system != false %}
        {% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}
    {% else %}
        {% set text = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {{ ' ' + text.strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}""",
    "llama3": """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}""",
    "mistral": """\
{%- if messages[0].role == "system" %}
    {%- set system = messages[0].content %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set users = turns | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role == "user" %}
        {%- if system is defined and message == users[-1] %}
            {{- "[INST] " + system + "\n\n" + message.content + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message.content + "[/INST]" }}
        {%- endif %}
    {%- elif message.role == "assistant" %}
        {{- " " + message.content|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant turns, after one system turn") }}
    {%- endif %}
{%- endfor %}""",
    "gemma": """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system turns') }}{% endif %}
{%- for message in messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}""",  # noqa: E501  a template
    "phi3": (
        "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content']"
        " + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{{ eos_token }}{% endif %}"
    ),
    "phi4-mini": (
        "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and"
        " message['tools'] is not none %}{{ '<|system|>' + message['content'] + '<|tool|>' }}"
        "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    "qwen3": """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == "user" and not (message.content.startswith('<tool_response>')
        and message.content.endswith('</tool_response>')) %}
        {%- set ns.open = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and thought %}
            {{- '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}""",  # noqa: E501  a template
    "deepseek-r1": """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(is_first=false, system='') %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
{%- set ns.system = message['content'] %}{%- endif %}{%- endfor %}
{{- bos_token }}{{ ns.system }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' and message['content'] is not none %}
{%- set content = message['content'] %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}""",
    "smollm3": """\
{%- set mode = "/think" -%}
{%- if messages[0].role == "system" -%}
    {%- set system = messages[0].content -%}
    {%- if "/no_think" in system -%}
        {%- set mode = "/no_think" -%}
    {%- elif "/think" in system -%}
        {%- set mode = "/think" -%}
    {%- endif -%}
    {%- set custom = system.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "<|im_start|>system\nReasoning: " + mode + "\nToday: " + strftime_now("%d %B %Y") + "\n" -}}
{%- if custom is defined and custom -%}{{- custom + "\n\n" -}}{%- endif -%}
{{- "<|im_end|>\n" -}}
{%- for message in messages -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>user\n" + message.content + "<|im_end|>\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if mode == "/think" -%}
            {{ "<|im_start|>assistant\n" + message.content.lstrip("\n") + "<|im_end|>\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\n<think>\n\n</think>\n" + message.content + "<|im_end|>\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\n" }}{%- endif -%}""",
    "granite": """\
{%- if messages[0]['role'] == 'system' %}
{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}
{%- set system_message = "Today's Date: " + strftime_now('%B %d, %Y') + "." %}
{%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}
{%- for message in loop_messages %}
{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}
{%- if loop.last and add_generation_prompt %}
{{- '<|start_of_role|>assistant<|end_of_role|>' }}
{%- endif %}
{%- endfor %}""",  # noqa: E501  a template
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
        "{% endfor %}"
    ),
    "plain-words": (
        "{% for message in messages %}{{ message['role'] | capitalize + ': '"
        " + message['content'].strip() + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}

_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_EACH = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"

IDIOMS = {
    "in-string": """\
{% for message in messages %}
{% if '</think>' in message.content and message.role == 'assistant' %}
{{ message.content.split('</think>')[-1] }}<|im_end|>
{% else %}
<|im_start|>{{ message.content }}<|im_end|>
{% endif %}
{% endfor %}
"""
    + _END,
    "division": (
        "{{ 7/2 }} {{ 7//2 }} {{ -7 % 3 }} {{ 2**3 }} {{ 10 / 5 }} {{ messages|length / 2 }}"
        "{% for message in messages %}" + _EACH + "{% endfor %}" + _END
    ),
    "string-index": (
        "{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abcdef'[1:4:2] }}{% for message in messages %}"
        "{{ message.content[0] }}{{ message.content[:3] }}{{ message.content[::-1] }}"
        "<|im_end|>\n{% endfor %}" + _END
    ),
    "indented-if": """\
{% for message in messages %}
    {% if loop.first %}
        first
    {% endif %}
      {% if message.role == 'user' %}
  <|im_start|>user
{{ message.content }}<|im_end|>
      {% else %}
\t<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
      {% endif %}
{% endfor %}
    {% if add_generation_prompt %}
<|im_start|>assistant
    {% endif %}
""",
    "tools-absent": (
        "{% if tools is not none and tools %}tools!{% endif %}{% if tools is none %}none{% endif %}"
        "{% if documents %}documents!{% endif %}{% if tools is defined %}defined{% endif %}"
        "{% for message in messages %}{% if message.tool_calls is defined %}calls{% endif %}"
        "{% if 'tool_calls' not in message %}" + _EACH + "{% endif %}{% endfor %}" + _END
    ),
    "loop-controls": (
        "{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}"
        "{% if loop.index0 > 6 %}{% break %}{% endif %}" + _EACH + "{% endfor %}" + _END
    ),
    "neighbours": (
        "{% for message in messages %}{% if loop.previtem is defined and loop.previtem.role =="
        " message.role %}\n\n{{ message.content }}{% else %}<|im_start|>{{ message.role }}\n"
        "{{ message.content }}{% endif %}{% if loop.nextitem is undefined or loop.nextitem.role !="
        " message.role %}<|im_end|>\n{% endif %}{% endfor %}" + _END
    ),
    "macro": (
        "{%- macro turn(role, text='', end='<|im_end|>') -%}\n<|im_start|>{{ role }}\n"
        "{{ text }}{{ end }}{{ caller() if caller else '' }}\n{%- endmacro -%}"
        "{% for message in messages %}{{ turn(message.role, text=message.content) }}{% endfor %}"
        "{% call turn('assistant', end='') %}{% endcall %}"
    ),
    "tojson": (
        "{{ messages | tojson }}\n{{ messages[0] | tojson(indent=4) }}"
        "{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true, ensure_ascii=true) }}"
        "{{ [1, none, true, 1.5] | tojson(separators=(',', ':')) }}<|im_end|>" + _END
    ),
    "namespace-dict": (
        "{% set ns = namespace(n=0, seen='') %}{% set names = dict(user='U', assistant='A') %}"
        "{% for message in messages %}{% set ns.n = ns.n + 1 %}{% set ns.seen = ns.seen ~ "
        "message.role[0] %}{{ names.get(message.role, 'S') }}{{ ns.n }}:" + _EACH + "{% endfor %}"
        "{{ ns.seen }}{{ dict.fromkeys(['x'], 1) }}" + _END
    ),
    "dated": (
        "{{ strftime_now('%Y-%m-%d %H:%M %A') }}{{ strftime_now(format='%j') }}"
        "{% for message in messages %}" + _EACH + "{% endfor %}" + _END
    ),
    "replacing": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{{ message.content | replace('~', '') | replace('</think>', '') }}<|im_end|>\n"
        "{% endfor %}" + _END
    ),
    "changing-case": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{{ message.content.lower() }} {{ message.content | upper }}<|im_end|>\n{% endfor %}" + _END
    ),
    "joining": (
        "<|im_start|>{{ messages | map(attribute='content') | join('') }}<|im_end|>\n"
        "{{ messages | map(attribute='role') | join(', ') }}" + _END
    ),
    "string-tests": (
        "{% for message in messages %}{% if message.content is string %}s{% endif %}"
        "{% if message.content is not mapping and message.content is iterable %}i{% endif %}"
        "{% if message.content is sequence %}q{% endif %}{{ message.content | length }}"
        "{{ message.content.count('a') }}{{ message['missing'] }}{{ message.get('name', '-') }}"
        + _EACH
        + "{% endfor %}"
        + _END
    ),
    "whitespace": (
        "  {%- for message in messages -%}  <|im_start|>\n\n{{- message.content -}}\n  <|im_end|>"
        "   {%+ if loop.last %}  last {% endif +%}\n{#- a comment -#}\n{%- endfor %}\n"
        "{{ '\\n' }}{{ 'it''s' if false else \"it's\" }}" + _END
    ),
    "refusing": (
        "{% if messages | length > 5 %}{{ raise_exception('too long: ' ~ messages|length) }}"
        "{% endif %}{% for message in messages %}" + _EACH + "{% endfor %}" + _END
    ),
    "items": (
        "{% for message in messages %}{% for key, value in message.items() %}{{ key }}={{ value }};"
        "{% endfor %}{% for key in message %}{{ key }}{% endfor %}<|im_end|>{% endfor %}"
        "{% for n in range(3) %}{{ n }}{% endfor %}{% set x, y = 1, 2 %}{{ x + y }}" + _END
    ),
    "filters": (
        "{{ bos_token | default('none') }}{{ missing | default('absent') }}{{ eos_token }}"
        "{% for message in messages | rejectattr('role', 'equalto', 'system') %}{{ loop.cycle('o', "
        "'e') }}{{ message.content | trim | truncate(30) }}{{ message.content | title }}"
        "{{ '%s-%d' | format('n', loop.revindex) }}<|im_end|>{% endfor %}" + _END
    ),
}

TEMPLATES = FAMILIES | IDIOMS
