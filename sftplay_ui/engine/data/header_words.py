"""What people call their columns, in the languages we meet: names to roles.

A vocabulary only; deciding by it is left to `shapes` and `delimited`.
"""

import re

# earlier words win where a file has several of them
USER = (
    "user", "question", "prompt", "instruction", "query", "input", "human", "problem",
    "user_message", "source", "ask", "term", "front",
    "frage", "eingabe", "aufgabe", "anweisung", "begriff",
    "pregunta", "consulta", "instrucción", "entrada", "pregunta_usuario",
    "pergunta", "instrução", "domanda", "istruzione", "vraag", "fråga", "spørgsmål", "kysymys",
    "pytanie", "otázka", "kérdés", "întrebare", "soru", "talimat",
    "вопрос", "инструкция", "запрос", "питання", "запитання", "въпрос",
    "问题", "問題", "指令", "提问", "問", "问", "質問", "指示", "질문", "문제", "지시",
    "سؤال", "السؤال", "پرسش", "שאלה", "प्रश्न", "सवाल", "คำถาม", "câu_hỏi", "pertanyaan",
    "ερώτηση", "question_utilisateur",
    "text", "sentence", "review", "q",
)  # fmt: skip
ASSISTANT = (
    "assistant", "answer", "response", "output", "completion", "reply", "gpt", "chosen", "solution",
    "target", "ideal", "answers", "assistant_message", "model_answer", "best_answer", "gold",
    "definition", "back", "responses", "outputs", "reference",
    "antwort", "ausgabe", "lösung", "erklärung",
    "respuesta", "salida", "réponse", "reponse", "resposta", "risposta", "antwoord", "svar",
    "vastaus", "odpowiedź", "odpověď", "odpoveď", "válasz", "răspuns", "cevap", "yanıt",
    "ответ", "відповідь", "отговор",
    "答案", "回答", "答", "输出", "答え", "解答", "출력", "답변", "대답", "답", "정답",
    "جواب", "الجواب", "إجابة", "الإجابة", "پاسخ", "תשובה", "उत्तर", "जवाब", "คำตอบ", "trả_lời",
    "câu_trả_lời", "jawaban", "απάντηση",
    "a", "label",
)  # fmt: skip
SYSTEM = ("system", "system_prompt", "system_message", "systemprompt", "系统", "система")
CONTEXT = ("input", "context", "passage", "kontext", "contexto", "contexte", "контекст", "上下文")
OPTIONS = ("options", "choices", "answer_choices", "choice", "optionen", "opciones", "选项")
MESSAGES = (
    "messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns",
    "chosen",
)  # fmt: skip

ROLE_WORDS = {
    "user": USER,
    "assistant": ASSISTANT,
    "system": SYSTEM,
    "context": CONTEXT,
    "options": OPTIONS,
    "messages": MESSAGES,
}
ALL_WORDS = frozenset(word for words in ROLE_WORDS.values() for word in words)


def plain_name(column: str) -> str:
    """Write a column's name the way the vocabulary does: `" User-Prompt "` is `user_prompt`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column.strip())
    return re.sub(r"[\W_]+", "_", spaced).strip("_").casefold()


def is_header_word(cell: str) -> bool:
    """Tell whether a cell names a role in some language."""
    return plain_name(cell) in ALL_WORDS
