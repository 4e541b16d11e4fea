"""Words and sentence patterns of the generated corpus: English, French and, as the wrong language, German."""

from __future__ import annotations

Pattern = tuple[str | tuple[str, ...], ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


EN_NOUN = _words(
    "river market teacher window garden engine letter doctor bridge kitchen island painter station village captain forest "
    "lesson ticket blanket harbour museum pilot orchard festival neighbour lantern carpenter notebook valley journal "
    "bakery compass machine mountain student library monument tailor workshop train ferry reservoir sensor battery "
    "keyboard antenna furnace hospital postcard calendar recipe argument contract violin theatre desert glacier lighthouse "
    "sailor farmer mechanic musician printer telescope umbrella wallet cupboard ladder staircase balcony chimney cathedral "
    "pharmacy butcher grocer librarian surgeon apprentice inspector referee committee council parliament ministry budget "
    "invoice receipt warehouse container cargo voyage anchor canal tunnel crossing roundabout suburb district province"
)
EN_ADJ = _words(
    "quiet northern broken golden patient early narrow cheerful wooden distant careful modern crowded empty famous gentle "
    "heavy honest local muddy official polite rapid rusty silent steep stubborn sunny tall tiny useful vacant warm wealthy "
    "weekly wild windy yearly young ancient bright clumsy curious delicate enormous fragile generous humble ordinary"
)
EN_VERB = _words(
    "repairs visits describes measures carries follows borrows paints opens protects delivers replaces inspects announces "
    "collects compares builds cleans closes discovers examines explains finds forgets guards heats improves invites joins "
    "keeps leaves lends lifts locates maintains moves notices observes orders organises prepares presents publishes"
)
EN_PLACE = _words(
    "near_the_harbour before_sunrise after_the_storm on_Tuesday_morning in_the_old_town behind_the_school with_great_care "
    "for_the_third_time without_a_map during_the_winter along_the_coast at_the_end_of_the_month under_the_bridge "
    "in_front_of_the_council every_other_week despite_the_rain across_the_valley since_the_last_election by_hand"
)
FR_NOUN = _words(
    "marché jardin moteur médecin pont village capitaine billet musée pilote verger festival voisin charpentier cahier "
    "vallon journal boulanger compas étudiant monument tailleur atelier train réservoir capteur clavier fourneau hôpital "
    "calendrier contrat violon théâtre désert glacier phare marin fermier mécanicien musicien télescope parapluie "
    "portefeuille placard escalier balcon boucher épicier libraire chirurgien apprenti inspecteur arbitre comité conseil "
    "parlement ministère budget reçu entrepôt conteneur voyage canal tunnel carrefour quartier château moulin chemin "
    "bateau camion tracteur grenier sentier sommet rivage quai fleuve ruisseau étang cerisier érable traîneau chalet"
)
FR_ADJ = _words(
    "tranquille vieux brisé doré étroit joyeux lointain prudent moderne désert célèbre lourd honnête boueux officiel poli "
    "rapide rouillé silencieux raide têtu ensoleillé minuscule utile tiède hebdomadaire sauvage venteux annuel ancien "
    "brillant maladroit curieux délicat énorme fragile généreux humble ordinaire étrange québécois régional métallique"
)
FR_VERB = _words(
    "répare visite décrit mesure transporte suit emprunte peint ouvre protège livre remplace inspecte annonce collectionne "
    "compare construit nettoie ferme découvre examine explique trouve oublie garde chauffe améliore invite rejoint prête "
    "soulève entretient déplace remarque observe commande organise prépare présente publie surveille éclaire traverse"
)
FR_PLACE = _words(
    "près_du_port avant_l'aube après_la_tempête mardi_matin dans_la_vieille_ville derrière_l'école avec_grand_soin "
    "pour_la_troisième_fois sans_carte pendant_l'hiver le_long_de_la_côte à_la_fin_du_mois sous_le_pont devant_le_conseil "
    "une_semaine_sur_deux malgré_la_pluie de_l'autre_côté_du_lac depuis_la_dernière_élection à_la_main dès_le_printemps"
)
NAME = _words(
    "Amélie Bernard Chloé Denis Élise Fabien Gisèle Hugo Inès Julien Karine Léon Manon Noël Océane Paul Quentin Rosalie "
    "Simon Théo Ursule Victor William Xavier Yvette Zoé Alice Brian Clara Daniel Emma Frank Grace Henry Irene Jack Kate"
)
NUMBER = tuple(str(number) for number in range(11, 211))

EN_SENTENCES: tuple[Pattern, ...] = (
    ("The ", EN_ADJ, " ", EN_NOUN, " ", EN_VERB, " the ", EN_NOUN, " ", EN_PLACE, "."),
    (NAME, " says that every ", EN_NOUN, " ", EN_VERB, " a ", EN_ADJ, " ", EN_NOUN, " ", EN_PLACE, "."),
    ("There were ", NUMBER, " people when the ", EN_NOUN, " left the ", EN_ADJ, " ", EN_NOUN, "."),
    ("Because it is ", EN_ADJ, ", this ", EN_NOUN, " usually ", EN_VERB, " another ", EN_NOUN, "."),
    ("If the ", EN_NOUN, " stays ", EN_ADJ, ", our ", EN_NOUN, " ", EN_VERB, " it ", EN_PLACE, "."),
    ("About ", NUMBER, " years ago, ", NAME, " met the ", EN_ADJ, " ", EN_NOUN, " ", EN_PLACE, "."),
    ("A ", EN_NOUN, " which ", EN_VERB, " the ", EN_NOUN, " seems ", EN_ADJ, " to ", NAME, "."),
    ("What matters here is how a ", EN_ADJ, " ", EN_NOUN, " ", EN_VERB, " their ", EN_NOUN, "."),
)
EN_QUESTIONS: tuple[Pattern, ...] = (
    ("Why does the ", EN_ADJ, " ", EN_NOUN, " matter ", EN_PLACE, "?"),
    ("Could you tell me how ", NAME, " should treat a ", EN_ADJ, " ", EN_NOUN, "?"),
    ("Who ", EN_VERB, " the ", EN_ADJ, " ", EN_NOUN, " ", EN_PLACE, "?"),
)
FR_SENTENCES: tuple[Pattern, ...] = (
    ("Le ", FR_NOUN, " ", FR_ADJ, " ", FR_VERB, " un ", FR_NOUN, " ", FR_PLACE, "."),
    (NAME, " dit que chaque ", FR_NOUN, " ", FR_VERB, " ce ", FR_NOUN, " ", FR_ADJ, " ", FR_PLACE, "."),
    ("Il y avait ", NUMBER, " personnes quand le ", FR_NOUN, " a quitté un ", FR_NOUN, " ", FR_ADJ, "."),
    ("Puisqu'il est ", FR_ADJ, ", ce ", FR_NOUN, " ", FR_VERB, " souvent un autre ", FR_NOUN, "."),
    ("Si le ", FR_NOUN, " reste ", FR_ADJ, ", notre ", FR_NOUN, " le ", FR_VERB, " ", FR_PLACE, "."),
    ("Voilà ", NUMBER, " ans que ", NAME, " connaît le ", FR_NOUN, " ", FR_ADJ, " ", FR_PLACE, "."),
    ("Un ", FR_NOUN, " qui ", FR_VERB, " le ", FR_NOUN, " paraît ", FR_ADJ, " à ", NAME, "."),
    ("Ce qui compte, c'est comment le ", FR_NOUN, " ", FR_ADJ, " ", FR_VERB, " son ", FR_NOUN, "."),
)
FR_QUESTIONS: tuple[Pattern, ...] = (
    ("Pourquoi le ", FR_NOUN, " ", FR_ADJ, " est-il important ", FR_PLACE, "?"),
    ("Peux-tu me dire comment ", NAME, " devrait traiter un ", FR_NOUN, " ", FR_ADJ, "?"),
    ("Qui ", FR_VERB, " le ", FR_NOUN, " ", FR_ADJ, " ", FR_PLACE, "?"),
)
GERMAN = (
    "Der alte Müller geht jeden Morgen über die Brücke und grüßt die Nachbarn.",
    "Wir haben gestern lange über den neuen Fahrplan der Straßenbahn gesprochen.",
    "Im Winter schließen die kleinen Läden am Marktplatz schon um fünf Uhr.",
    "Niemand wusste, warum das Fenster in der Küche noch immer offen stand.",
    "Die Lehrerin erklärte den Schülern geduldig, wie man einen Brief schreibt.",
    "Nach dem Regen roch der ganze Garten nach feuchter Erde und frischem Gras.",
    "Ohne eine gute Karte findet man den schmalen Weg durch den Wald nicht.",
    "Am Ende des Monats bezahlt der Bauer die Rechnung für das neue Werkzeug.",
)
SYSTEM = {
    "en": ("You are a patient assistant.", "Answer in a few clear sentences.", "Be brief, honest and friendly."),
    "fr": ("Tu es un assistant patient.", "Réponds en quelques phrases claires.", "Sois bref, honnête et amical."),
}
REFUSAL = {
    "en": "I'm sorry, but as an AI language model I cannot help with that request.",
    "fr": "Je suis désolé, mais en tant que modèle de langage je ne peux pas répondre à cette demande.",
}
BOILERPLATE = {
    "en": "I hope this helps! Let me know if you have any other questions. Click here to subscribe to our newsletter.",
    "fr": "J'espère que cela t'aide! N'hésite pas si tu as d'autres questions. Abonne-toi à notre infolettre.",
}
TAGS = ("travel", "work", "cooking", "history", "technology", "nature")
RARE_TAG = "astronomy"
