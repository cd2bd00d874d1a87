"""The word lists of the closed world. Plain data."""

from __future__ import annotations

GIRLS = (
    "Ada Mia Nora Ella Rosa Lily Emma Clara Ruth Iris Hazel Daisy Grace Anna Maya Tara Vera Zoe Eva Alma Beth Cora "
    "Dora "
    "Edith Fern Gina Heidi Ines Jade Kate Leah Maud Nell Olive Penny Rita Sara Tess Una Viola Wanda Yara Amy Bella "
    "Celia "
    "Della Elsa Flora Greta Hilda Ivy June Kira Lena Mona Nina Opal Petra Robin Stella Thea Ursa Violet Willa Xenia "
    "Zara"
).split()  # fmt: skip
BOYS = (
    "Tom Ben Max Sam Leo Jack Finn Otto Hugo Paul Karl Dan Ned Rob Tim Will Alan Bruno Colin David Erik Felix "
    "George Henry "
    "Ivan Jonas Kurt Luca Mark Nils Oscar Peter Quinn Ralph Simon Theo Ulrich Victor Walter Yuri Adam Boris Carl "
    "Dylan Emil "
    "Frank Gus Harry Igor Joel Ken Liam Miles Noah Owen Perry Rick Scott Tony Vito Wes Abel Cliff Dean Ezra Floyd Gavin"
).split()  # fmt: skip
NAME_HEADS = "Al Bar Cor Dal El Fen Gar Hal Is Jor Kel Lor Mar Nor Or Per Quil Ros Sel Tor Ul Var Wil Yor Zan".split()
NAME_TAILS_SHE = "ina ella issa etta ona ima andra enna".split()
NAME_TAILS_HE = "vin rick den mond bert son ton gar".split()

TOWN_HEADS = "Oak Mill Stone Ash Fox Raven Silver Green White Black Red Gold".split()
TOWN_TAILS = "ford bridge field wood port ville haven mere".split()
REGIONS = "the north|the south|the east|the west|the hills|the valley|the coast|the islands".split("|")
RIVERS = "Arn Belt Cass Dorn Esk Fell Glen Holm Isk Jarn Kell Lunn".split()
KNOWN_FOR = (
    "cheese|honey|boats|glass|wool|bells|clocks|apples|roses|salt|bread|kites|lamps|music|pottery|ropes|silk|shoes|"
    "tea|tiles|toys|wine|maps|candles"
).split("|")  # fmt: skip
WEATHER = "sunny windy rainy snowy foggy mild".split()

JOBS = (
    "baker pilot farmer teacher doctor nurse painter singer dancer writer sailor miller tailor cook gardener driver "
    "plumber "
    "builder carpenter potter weaver fisher hunter guard judge lawyer clerk printer barber butcher grocer waiter "
    "porter "
    "actor drummer poet banker dentist chemist engineer mechanic librarian postman soldier shepherd beekeeper jeweller "
    "locksmith florist juggler magician detective diver miner mason roofer welder tutor coach editor"
).split()  # fmt: skip
PETS = (
    "cat|dog|parrot|rabbit|hamster|turtle|goldfish|pony|goat|duck|hen|mouse|lizard|snake|canary|ferret|frog|snail|spider|"
    "donkey|pigeon|crow|owl|hedgehog|lamb|piglet|gecko|crab|newt|beetle"
).split("|")  # fmt: skip
FOODS = (
    "soup|bread|rice|pasta|pizza|salad|cake|pie|cheese|honey|apples|pears|plums|grapes|cherries|melons|berries|figs|nuts|"
    "beans|peas|corn|carrots|onions|potatoes|pumpkin|mushrooms|eggs|fish|crabs|noodles|dumplings|pancakes|waffles|toast|"
    "jam|butter|yogurt|cookies|muffins|pudding|chocolate|toffee|popcorn|olives|tomatoes|cabbage|spinach|lentils|porridge"
).split("|")  # fmt: skip
COLOURS = "red blue green yellow orange purple pink brown black white grey silver gold teal".split()
HOBBIES = (
    "chess|tennis|football|painting|singing|dancing|fishing|sailing|skating|skiing|hiking|running|swimming|reading|knitting|"
    "sewing|baking|cooking|gardening|juggling|climbing|riding|rowing|drawing|cards|darts|golf|yoga|archery|pottery|"
    "photography|puzzles|magic|kites|stamps|coins"
).split("|")  # fmt: skip

# name|group|home|food|legs|sound|cover
ANIMALS = """lion|mammal|grassland|meat|4|roars|fur
tiger|mammal|jungle|meat|4|growls|fur
wolf|mammal|forest|meat|4|howls|fur
fox|mammal|forest|mice|4|barks|fur
bear|mammal|forest|berries|4|growls|fur
deer|mammal|forest|leaves|4|grunts|fur
cow|mammal|farm|grass|4|moos|hair
horse|mammal|farm|hay|4|neighs|hair
sheep|mammal|farm|grass|4|bleats|wool
goat|mammal|farm|leaves|4|bleats|hair
pig|mammal|farm|roots|4|oinks|hair
dog|mammal|house|meat|4|barks|fur
cat|mammal|house|fish|4|meows|fur
mouse|mammal|field|seeds|4|squeaks|fur
rabbit|mammal|field|grass|4|squeaks|fur
hedgehog|mammal|garden|worms|4|snuffles|spines
squirrel|mammal|tree|nuts|4|chatters|fur
bat|mammal|cave|insects|2|squeaks|fur
monkey|mammal|jungle|fruit|2|chatters|fur
elephant|mammal|grassland|leaves|4|trumpets|skin
zebra|mammal|grassland|grass|4|brays|hair
giraffe|mammal|grassland|leaves|4|hums|hair
camel|mammal|desert|grass|4|groans|hair
kangaroo|mammal|desert|grass|2|grunts|fur
whale|mammal|sea|shrimp|0|sings|skin
dolphin|mammal|sea|fish|0|clicks|skin
seal|mammal|sea|fish|0|barks|fur
otter|mammal|river|fish|4|chirps|fur
beaver|mammal|river|bark|4|grunts|fur
donkey|mammal|farm|hay|4|brays|hair
eagle|bird|mountain|fish|2|screeches|feathers
owl|bird|forest|mice|2|hoots|feathers
crow|bird|field|seeds|2|caws|feathers
robin|bird|garden|worms|2|sings|feathers
duck|bird|pond|plants|2|quacks|feathers
goose|bird|pond|grass|2|honks|feathers
swan|bird|lake|plants|2|hisses|feathers
hen|bird|farm|seeds|2|clucks|feathers
parrot|bird|jungle|fruit|2|talks|feathers
penguin|bird|ice|fish|2|honks|feathers
pigeon|bird|town|crumbs|2|coos|feathers
gull|bird|beach|fish|2|cries|feathers
frog|amphibian|pond|flies|4|croaks|skin
toad|amphibian|garden|insects|4|croaks|skin
newt|amphibian|pond|worms|4|clicks|skin
snake|reptile|desert|mice|0|hisses|scales
lizard|reptile|desert|insects|4|hisses|scales
turtle|reptile|sea|plants|4|hisses|shell
crocodile|reptile|river|meat|4|bellows|scales
bee|insect|hive|nectar|6|buzzes|hair
ant|insect|nest|crumbs|6|clicks|shell
cricket|insect|field|leaves|6|chirps|shell
butterfly|insect|garden|nectar|6|flutters|wings
beetle|insect|tree|leaves|6|clicks|shell
spider|arachnid|web|flies|8|drums|hair
crab|crustacean|beach|plants|10|clicks|shell
salmon|fish|river|insects|0|splashes|scales
shark|fish|sea|fish|0|splashes|skin"""

# name|material|use (to ...)|where
THINGS = """hammer|steel|hit nails|in the shed
saw|steel|cut wood|in the shed
spade|iron|dig holes|in the garden
rake|iron|gather leaves|in the garden
bucket|tin|carry water|in the garden
ladder|wood|reach high places|in the shed
broom|straw|sweep the floor|in the kitchen
kettle|copper|boil water|in the kitchen
pan|iron|fry eggs|in the kitchen
spoon|silver|stir tea|in the kitchen
knife|steel|cut bread|in the kitchen
cup|clay|drink tea|on the table
plate|clay|serve food|on the table
bowl|wood|hold soup|on the table
bottle|glass|keep juice|on the shelf
jar|glass|keep jam|on the shelf
lamp|brass|light the room|on the desk
candle|wax|light the dark|on the shelf
clock|brass|tell the time|on the wall
mirror|glass|see your face|on the wall
map|paper|find the way|in the bag
book|paper|read stories|on the shelf
pencil|wood|draw pictures|on the desk
brush|hair|paint walls|in the box
needle|steel|sew clothes|in the box
scissors|steel|cut paper|in the drawer
key|iron|open the door|in the pocket
coin|gold|pay for things|in the pocket
ring|gold|wear on a finger|in the box
bell|bronze|call people|in the tower
drum|leather|play a beat|in the hall
flute|wood|play a tune|in the hall
violin|wood|play music|in the case
kite|cloth|play in the wind|in the cupboard
ball|rubber|play games|in the yard
doll|cloth|play at home|on the bed
sled|wood|slide on snow|in the shed
boat|wood|cross the lake|in the harbour
oar|wood|row a boat|in the harbour
net|rope|catch fish|in the harbour
anchor|iron|hold a ship|in the harbour
tent|canvas|sleep outside|in the attic
blanket|wool|keep warm|on the bed
pillow|feathers|rest your head|on the bed
coat|wool|stay dry|in the wardrobe
hat|felt|shade your eyes|in the wardrobe
boots|leather|walk in mud|by the door
umbrella|silk|keep off rain|by the door
basket|straw|carry fruit|in the pantry
sack|cloth|carry grain|in the barn
cart|wood|move hay|in the barn
saddle|leather|ride a horse|in the barn
rope|hemp|tie knots|in the barn
torch|tin|see at night|in the drawer
compass|brass|find north|in the bag
telescope|brass|look at stars|in the attic
chest|oak|store clothes|in the attic
chair|oak|sit down|in the hall
wheel|oak|turn a mill|in the mill
stamp|paper|send a letter|in the drawer"""

# word -> plain meaning: the base learns what pirates' words mean, not to talk like that
PIRATE_MEANINGS = {
    "ahoy": "hello", "matey": "friend", "arr": "well", "aye": "yes", "ye": "you", "yer": "your", "grog": "drink",
    "booty": "treasure", "lass": "girl", "lad": "boy", "avast": "stop", "landlubber": "a person who stays on land",
    "hearties": "friends", "doubloon": "gold coin", "scurvy": "nasty", "me": "my", "be": "is", "yonder": "over there",
    "savvy": "do you understand", "shipmate": "friend on a ship",
}  # fmt: skip

LANGUAGE = {
    "the": "ka", "a": "ti", "cat": "miru", "dog": "bova", "bird": "seki", "fish": "lanu", "horse": "gorda",
    "child": "pilo",
    "king": "tarak", "farmer": "homi", "river": "suvan", "house": "dombe", "tree": "velka", "bread": "nopa",
    "apple": "zirat",
    "book": "fenu", "ball": "rolo", "sees": "vasit", "eats": "gumit", "finds": "jorit", "likes": "lemit",
    "carries": "takit",
    "sells": "ponit", "hides": "kulit", "draws": "desit", "big": "gran", "small": "ninu", "red": "rusk", "blue": "azul",
    "old": "veto", "happy": "gaja", "quick": "sprin", "and": "ep", "not": "nul", "today": "hodi", "now": "nur",
}  # fmt: skip

GOOD = (
    "wonderful lovely great excellent delightful superb pleasant charming perfect tasty brilliant cheerful friendly "
    "splendid fine"
).split()  # fmt: skip
BAD = "terrible awful horrible bad dreadful nasty boring poor rude dirty cold disappointing dull broken sad".split()
MEH = "ordinary average plain usual common fair middling normal".split()
REVIEW_TOPICS = {
    "food": "soup bread pasta pizza cake pie salad dinner lunch breakfast".split(),
    "travel": "trip hotel train boat beach room ferry journey".split(),
    "film": "film play story song show concert actor book".split(),
    "home": "lamp chair coat kettle clock blanket table bed".split(),
}  # fmt: skip
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
ADJECTIVES = (
    "old young tall short big small quiet noisy brave shy kind clever lazy busy happy tired hungry curious gentle "
    "proud "
    "funny strong careful lucky polite patient honest cheerful sleepy calm"
).split()  # fmt: skip
SPELL_WORDS = (
    "cat dog fox owl hen bee ant cow pig sun moon star rain snow wind tree leaf rose fish bird bear wolf lion frog "
    "duck "
    "goat milk soup cake rice corn bread apple plum pear lamp book door ring bell boat coat hat map key cup red "
    "blue green "
    "pink gold baker farmer doctor sailor river house table chair water stone"
).split()  # fmt: skip
RESTAURANT_HEADS = "Blue Golden Green Old Red Silver Happy Little Royal Quiet".split()
RESTAURANT_TAILS = "Fox Mill Swan Boat Lantern Garden Kettle Anchor Rose Owl Bridge Barrel".split()
CUISINES = "soup pasta pizza fish rice noodles cake salad pancakes dumplings".split()
PRICES = "cheap moderate expensive".split()
AREAS = "the valley|the old town|the harbour|the hills|the market".split("|")
RATINGS = "one two three four five".split()
SIGHTS = "the mill|the station|the park|the museum|the church|the library|the bridge|the school".split("|")
